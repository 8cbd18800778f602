#!/bin/sh
# Makes a PL/Proxy router before servers, or brings one up to date; adding a server is the same command with one more. Needs psql and absurdctl.
#
#   deploy/plproxy/install.sh "host=router dbname=absurd user=absurd" a="host=db1 dbname=absurd user=absurd" b="host=db2 …" c="host=db3 …"
#
# First the router's database, whose user may create the extension; then the servers, at most 64.
set -eu

here=$(dirname "$0")
run() { psql -X -q -v ON_ERROR_STOP=1 "$@" >/dev/null; }

if [ $# -lt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
router=$1
shift

run -1 -d "$router" -f "$here/router.sql" -f "$here/functions.sql"
for shard in "$@"; do
    name=${shard%%=*}
    conninfo=${shard#*=}
    absurdctl init --roles -d "$conninfo"
    number=$(psql -X -A -t -v ON_ERROR_STOP=1 -v name="$name" -v conninfo="$conninfo" -d "$router" <<'SQL'
select absurd_router.set_shard(:'name', :'conninfo');
SQL
)
    run -v number="$number" -d "$conninfo" -f "$here/shard.sql"
    echo "✓ Shard $name has number $number"
done

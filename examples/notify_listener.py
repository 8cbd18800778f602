"""A plain SQL trigger starts a task: NOTIFY on a channel, and a listener that runs the workflow named in it.

NOTIFY is forgotten when nobody listens. Where no order may be missed, let the trigger call absurd.spawn_task instead.

Run it: python notify_listener.py
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg

from absurd import Absurd, Context
from absurd.listeners import NotifyListener

app = Absurd(queue_name="example-notify")
done = threading.Event()

SETUP = """
create table if not exists example_parcels (parcel_id integer primary key, town text not null);
create or replace function example_parcel_came() returns trigger language plpgsql as $$
begin
  perform pg_notify('workflow_triggers', json_build_object('workflow_id', 'label-parcel', 'params', to_json(new))::text);
  return new;
end $$;
create or replace trigger example_parcel_came after insert on example_parcels for each row execute function example_parcel_came();
"""
TEARDOWN = "drop table example_parcels; drop function example_parcel_came"


@app.register_task("label-parcel")
def label_parcel(params: dict[str, Any], ctx: Context) -> None:
    ctx.print(f"🏷 Parcel {params['parcel_id']} to {params['town']}")
    done.set()


def main() -> None:
    app.create_queue()
    listener = NotifyListener(app=app)
    thread = threading.Thread(target=listener.start_listening)
    with psycopg.connect(app.database_url, autocommit=True) as conn, app.worker():
        conn.execute(SETUP)
        thread.start()
        listener.listening.wait(30)
        conn.execute("insert into example_parcels values (1, 'Graz')")
        done.wait(30)
        listener.stop()
        thread.join()
        conn.execute(TEARDOWN)
    app.close()


if __name__ == "__main__":
    main()

"""What ties a queue to others, so that it cannot leave their database alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from absurd.errors import ConfigurationError

Connection = psycopg.Connection[Any]

# What it is, the queue that moves, the one that stays, and how many.
TIES = """
    with tie as (
      select 'a subscription' as what, s.queue_name as one, s.target_queue as other
      from absurd.subscriptions s where s.target_queue is not null
      union all
      select 'a living parent of a task', p.queue_name, c.queue_name
      from absurd.runs p join absurd.tasks c on c.parent_task_id = p.task_id
      union all
      select 'a wait for an event', r.queue_name, w.queue_name
      from absurd.waits w join absurd.runs r on r.run_id = w.run_id where w.kind = 'event'
      union all
      select 'a wait for a task', r.queue_name, t.queue_name
      from absurd.waits w join absurd.runs r on r.run_id = w.run_id join absurd.tasks t on t.task_id = w.awaited_task_id
      where w.kind = 'task'
    )
    select what, case when t.one = any(%(queues)s::text[]) then t.one else t.other end as moving,
      case when t.one = any(%(queues)s::text[]) then t.other else t.one end as staying, count(*)
    from tie t
    where (t.one = any(%(queues)s::text[])) <> (t.other = any(%(queues)s::text[]))
    group by 1, 2, 3
    order by 1, 2, 3
    limit 10"""


def require_no_ties(source: Connection, queues: Sequence[str]) -> None:
    """Refuses queues that living work connects with queues which stay.

    Raises:
        ConfigurationError: with what connects them.
    """
    rows = source.cursor(row_factory=tuple_row).execute(TIES, {"queues": list(queues)}).fetchall()
    if not rows:
        return
    said = "; ".join(f'{what} connects "{moving}" with "{staying}" ({number})' for what, moving, staying, number in rows)
    also = " ".join(sorted({f'"{staying}"' for _, _, staying, _ in rows}))
    raise ConfigurationError(
        f"{said}. What is connected lives in one database: move {also} in the same command, or wait until these tasks have ended "
        "and remove the subscriptions"
    )

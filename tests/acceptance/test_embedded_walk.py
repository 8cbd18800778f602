"""The same walk without any database named: client, worker and command line share the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.programs import (
    ROOT,
    WORKER_TITLE,
    environment,
    output,
    run,
    running,
    until_delivery,
    until_end,
    until_payment,
)


def test_order_walks_through_three_terminals_on_the_embedded_default(short_directory: Path) -> None:
    env = environment(ABSURD_HOME=str(short_directory / "home"))
    first = run("event_demo.py", "spawn", "5", env=env)
    assert first.process.returncode == 0, first.error_lines
    assert "✓ Spawned order fulfillment task:" in first.lines
    # Says once where the data are.
    assert len(first.error_lines) == 1
    assert str(short_directory / "home") in first.error_lines[0]
    with running("event_demo.py", env=env) as worker:
        worker.wait_for(until_payment("5")[-1])
        output("send_event.py", "payment.confirmed:5", "-p", '{"amount": 99.99}', env=env)
        worker.wait_for(until_delivery("5", {"amount": 99.99})[-1])
        output("send_event.py", "shipment.delivered:5", env=env)
        worker.wait_for(until_end("5", None)[-1])
        assert worker.stop() == 0
    assert worker.lines == [WORKER_TITLE, *until_payment("5"), *until_delivery("5", {"amount": 99.99}), *until_end("5", None)]
    assert worker.error_lines == []
    listed = output("-m", "absurd", "list-tasks", "--queue", "examples", env=env)
    assert [line for line in listed if "order-fulfillment" in line and "completed" in line]


def test_demo_shows_the_whole_transcript_and_runs_twice(short_directory: Path) -> None:
    # The caller's own database must not matter: the demo is about the embedded one.
    env = environment(ABSURD_HOME=str(short_directory / "home"), ABSURD_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    for _ in range(2):
        demo = run(str(ROOT / "scripts" / "demo.py"), env=env, cwd=ROOT)
        assert demo.process.returncode == 0, [demo.lines, demo.error_lines]
        (order_id,) = {line.removeprefix("  Order ID: ") for line in demo.lines if line.startswith("  Order ID: ")}
        payment = {"amount": 99.99, "transaction_id": "txn_abc123"}
        delivery = {"delivered_at": "2025-01-03T14:30:00Z", "signature": "J. Doe"}
        wanted = [
            "Absurd Event-Driven Workflow Demo",
            *until_payment(order_id),
            f"  Event name: payment.confirmed:{order_id}",
            *until_delivery(order_id, payment),
            f"  Event name: shipment.delivered:{order_id}",
            *until_end(order_id, delivery),
        ]
        places = [demo.lines.index(line) for line in wanted]
        assert places == sorted(places)
        assert all(demo.lines.count(line) == 1 for line in until_payment(order_id) + until_end(order_id, delivery))
        assert sum(line.startswith("── Terminal ") for line in demo.lines) == 6


def test_demo_says_what_went_wrong(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    demo = run(str(ROOT / "scripts" / "demo.py"), env=environment(ABSURD_HOME=str(blocked / "home")), cwd=ROOT)
    assert demo.process.returncode == 1
    assert [line for line in demo.error_lines if line.startswith("The demo failed: ")]
    assert not [line for line in demo.error_lines if "Traceback" in line]

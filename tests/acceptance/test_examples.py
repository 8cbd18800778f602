"""Every example runs by itself, twice, and prints what it is expected to print."""

from __future__ import annotations

import pytest

from tests.acceptance.programs import EXAMPLES, environment, output, run
from tests.support_amqp import AMQP_URL, require_broker

TRANSCRIPTS = {
    "cron_report.py": """\
📊 Three reports have come by the clock
⏱ A second apart: True
⏪ Run afterwards: 5 of 8""",
    "event_timeout.py": """\
⏳ Ada: waiting for the payment
⏰ Ada: no payment yet, sending a reminder
✓ Ada: payment confirmed: {'amount': 99.99}
Result: {'status': 'paid', 'amount': 99.99}
⏳ Bob: waiting for the payment
⏰ Bob: no payment yet, sending a reminder
✗ Bob: still no payment, the order is cancelled
Result: {'status': 'cancelled'}""",
    "customer_feedback.py": """\
✓ Payment confirmed: {'amount': 99.99}
✓ Delivery confirmed: {'delivered_at': '2025-01-03T14:30:00Z'}
✓ Feedback received: {'rating': 5, 'comment': 'Quick and friendly'}
Result: {'rating': 5, 'stored': True}""",
    "order_cancellation.py": """\
✓ Inventory reserved: ['widget-A', 'gadget-B']
✓ Payment confirmed: {'amount': 99.99}
Result: {'status': 'paid', 'items': ['widget-A', 'gadget-B']}
✓ Inventory reserved: ['widget-A', 'gadget-B']
✗ Order cancelled: {'reason': 'changed my mind'}
Result: {'status': 'cancelled', 'released': ['widget-A', 'gadget-B']}""",
    "payment_webhook.py": """\
⏳ Waiting for the payment provider's call
✓ Payment confirmed: {'amount': 99.99, 'currency': 'EUR'}
Result: {'status': 'paid', 'amount': 99.99}
The provider got: ['200 {"status": "accepted"}', '200 {"status": "accepted"}']""",
    "ai_agent.py": """\
🔧 search({'to': 'Vienna'})
🔧 book({'train': 'Nightjet to Vienna'})
🙋 This costs money: waiting for approval
✓ Approved by Ada
🤖 Your journey is booked: Nightjet to Vienna, seat 42
Result: {'answer': 'Your journey is booked: Nightjet to Vienna, seat 42', 'turns': 6}""",
    "github_webhook.py": """\
GitHub got: 200 {"status":"success","event_type":"push","workflows_triggered":1}
GitHub got: 200 {"status":"success","event_type":"push","workflows_triggered":1}
GitHub got: 401 {"detail": "Invalid webhook signature"}
🔨 Building shop at 6dcb09b, pushed by Ada""",
    "approval_by_link.py": """\
📧 Ada: a mail to the manager
👤 Refund 80 € to Ada? {'approved': 'true', 'comment': 'poor Ada'}
✓ Ada: approved
Result: {'status': 'refunded', 'amount': 80}
👤 409: Already answered
📧 Bob: a mail to the manager
👤 Refund 9000 € to Bob? {'approved': 'false', 'comment': 'too much'}
✗ Bob: refused: too much
Result: {'status': 'refused'}
📧 Cleo: a mail to the manager
⏰ Cleo: nobody has answered in time
Result: {'status': 'escalated'}
👤 410: Too late""",
    "fan_out.py": """\
📊 Asking 3 regions
  north: 200
  south: 200
  west: 100
Result: {'year': 2025, 'total': 500}""",
    "queue_depth_trigger.py": """\
📈 3 tasks wait in example-images: adding a worker
✓ photo-1.jpg is small now
✓ photo-2.jpg is small now
✓ photo-3.jpg is small now
Fired by the trigger: 1""",
    "file_drop.py": "📥 sales.csv (added): 4 numbers, 10 in all",
    "notify_listener.py": "🏷 Parcel 1 to Graz",
    "rabbitmq_consumer.py": "🖼 cat.png",
    "spawn_in_transaction.py": """\
After the rollback: 0 orders
Result: paid
Order 2 is paid""",
}
IN_SEVERAL_TERMINALS = {"event_demo.py", "send_event.py"}


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS))
def test_a45_example_prints_its_transcript_also_the_second_time(name: str, env: dict[str, str]) -> None:
    if name == "rabbitmq_consumer.py":
        require_broker()
        env = {**env, "ABSURD_AMQP_URL": AMQP_URL}
    for _ in range(2):
        program = run(name, env=env)
        assert program.process.returncode == 0, program.error_lines
        assert program.lines == TRANSCRIPTS[name].splitlines()
        assert program.error_lines == []


def test_a45_every_example_is_among_the_tested_ones() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*TRANSCRIPTS, *IN_SEVERAL_TERMINALS}


def test_a44_database_option_stands_before_or_after_the_command(env: dict[str, str], database_url: str) -> None:
    bare = environment()
    output("event_demo.py", "spawn", env=env)
    output("send_event.py", "payment.confirmed:12345", env=env)
    before = output("-m", "absurd", "-d", database_url, "list-events", "--queue", "examples", env=bare)
    after = output("-m", "absurd", "list-events", "--queue", "examples", "-d", database_url, env=bare)
    for lines in (before, after):
        assert [line for line in lines if "payment.confirmed:12345" in line]

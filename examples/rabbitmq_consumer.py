"""Messages of RabbitMQ start tasks: published with a message_id, so that one delivered twice starts one task.

It needs a broker: docker run -p 5672:5672 rabbitmq, or ABSURD_AMQP_URL=amqp://user:password@host:5672/vhost.

Run it: python rabbitmq_consumer.py
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from typing import Any

import pika
from pika.exceptions import AMQPConnectionError

from absurd import Absurd, Context
from absurd.listeners import RabbitMQListener

app = Absurd(queue_name="example-rabbitmq")
done = threading.Event()

URL = os.environ.get("ABSURD_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
QUEUE = f"example-{uuid.uuid4().hex}"


@app.register_task("resize-image")
def resize_image(params: dict[str, Any], ctx: Context) -> None:
    ctx.print(f"🖼 {params['image']}")
    done.set()


def main() -> None:
    try:
        connection = pika.BlockingConnection(pika.URLParameters(URL))
    except AMQPConnectionError:
        sys.exit("No RabbitMQ answers; start one with: docker run -p 5672:5672 rabbitmq")
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    message = json.dumps({"workflow_id": "resize-image", "params": {"image": "cat.png"}})
    for _ in range(2):  # a publisher that got no answer publishes again
        channel.basic_publish("", QUEUE, message.encode(), pika.BasicProperties(message_id="image-1", delivery_mode=2))

    app.create_queue()
    listener = RabbitMQListener(URL, QUEUE, app=app)
    thread = threading.Thread(target=listener.start_listening)
    with app.worker():
        thread.start()
        done.wait(30)
        listener.stop()
        thread.join()
    channel.queue_delete(QUEUE)
    connection.close()
    app.close()


if __name__ == "__main__":
    main()

"""An agent in async code: a loop of model calls and tools, each a step, and a person who approves what costs money.

A model call that is done is never paid for twice, whatever happens to the process; while the person thinks it over nothing runs.

Run it: python ai_agent.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from absurd import AsyncAbsurd, AsyncContext

app = AsyncAbsurd(queue_name="example-agent")

MAX_TURNS = 10


@app.register_task("travel-agent", max_attempts=3)
async def travel_agent(params: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": params["wish"]}]
    for _ in range(MAX_TURNS):
        reply = await ctx.step("think", ask_model, messages)  # recorded as think, think#2, think#3, …
        messages.append(reply)
        if "tool" not in reply:
            ctx.print(f"🤖 {reply['content']}")
            return {"answer": reply["content"], "turns": len(messages)}
        ctx.print(f"🔧 {reply['tool']}({reply['arguments']})")
        if reply["tool"] == "book":
            ctx.print("🙋 This costs money: waiting for approval")
            approval = await ctx.await_event(f"approval:{ctx.task_id}", timeout=3 * 24 * 3600)
            ctx.print(f"✓ Approved by {approval['by']}")
        result = await ctx.step(reply["tool"], run_tool, reply["tool"], reply["arguments"])
        messages.append({"role": "tool", "content": result})
    raise RuntimeError(f"no answer after {MAX_TURNS} turns")


async def ask_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Stands for a call of your model: it decides by what has been said so far."""
    tools_used = [message["content"] for message in messages if message["role"] == "tool"]
    if not tools_used:
        return {"role": "assistant", "tool": "search", "arguments": {"to": "Vienna"}}
    if len(tools_used) == 1:
        return {"role": "assistant", "tool": "book", "arguments": {"train": tools_used[0]}}
    return {"role": "assistant", "content": f"Your journey is booked: {tools_used[1]}"}


async def run_tool(name: str, arguments: dict[str, Any]) -> str:
    """Stands for the world outside."""
    return f"Nightjet to {arguments['to']}" if name == "search" else f"{arguments['train']}, seat 42"


async def main() -> None:
    await app.create_queue()
    async with app.worker():
        task = await app.spawn(travel_agent, {"wish": "Take me to Vienna"})
        await app.emit_event(f"approval:{task.task_id}", {"by": "Ada"})
        print(f"Result: {await task.result(timeout=30)}")
    await app.close()


if __name__ == "__main__":
    asyncio.run(main())

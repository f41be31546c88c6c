"""Durable functions by the public SDK, unchanged."""
import uuid

from aws_durable_execution_sdk_python import durable_execution, durable_step
from aws_durable_execution_sdk_python.config import Duration, StepConfig
from aws_durable_execution_sdk_python.retries import RetryStrategyConfig, create_retry_strategy


@durable_step
def fresh(step_context, what):
    return f"{what}-{uuid.uuid4()}"


@durable_step
def flaky(step_context):
    if step_context.attempt < 3:
        raise RuntimeError(f"attempt {step_context.attempt} fails")
    return step_context.attempt


RETRY = StepConfig(retry_strategy=create_retry_strategy(RetryStrategyConfig(
    max_attempts=4, initial_delay=Duration.from_seconds(1), max_delay=Duration.from_seconds(1))))


def chapter(context):
    inner = context.step(fresh("inner"))
    context.wait(Duration.from_seconds(1), name="inside")
    return [inner, context.step(fresh("after"))]


def square(context, item, index, items):
    return context.step(lambda _: item * item, name=f"square-{index}")


@durable_execution
def handler(event, context):
    if event.get("do") == "fail":
        context.step(fresh("before"))
        raise ValueError("as you wish")
    first = context.step(fresh("first"))
    result = {"first": first}
    if "wait" in event:
        context.wait(Duration.from_seconds(event["wait"]), name="pause")
        result["second"] = context.step(fresh("second"))
    if event.get("callback"):
        callback = context.create_callback(name="approval")
        result["approval"] = callback.result()
    if event.get("all"):
        result["retried"] = context.step(flaky(), config=RETRY)
        result["chapter"] = context.run_in_child_context(chapter, name="chapter")
        result["squares"] = context.map([1, 2, 3], square, name="squares").get_results()
        branches = [lambda ctx: ctx.step(fresh("left")), lambda ctx: ctx.step(fresh("right"))]
        result["both"] = context.parallel(branches, name="both").get_results()
    if "large" in event:
        result["large"] = context.step(lambda _: "x" * event["large"], name="large")
    if "invoke" in event:
        result["invoked"] = context.invoke(event["invoke"], {"name": "ada"}, name="other")
    return result

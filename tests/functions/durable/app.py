"""The way in: the SDK and boto3 are imported by the first invocation, which may take longer than an initialisation."""


def handler(event, context):
    import flows

    return flows.handler(event, context)

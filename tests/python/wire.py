"""What every answer is held against: the service's own model.

botocore drops members it does not know and never misses one that is absent, so the raw answer is compared
with the model here: no member that the model lacks, none of a wrong type, no value outside an enumeration, none
that is required missing, the exact status code, and, of an error, an exception that the operation may give, with
its own status and members. `sitecustomize.py` has every client watched.
"""
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ALWAYS = {
    "FunctionConfiguration": [
        "FunctionName", "FunctionArn", "Runtime", "Role", "Handler", "CodeSize", "Description", "Timeout",
        "MemorySize", "LastModified", "CodeSha256", "Version", "RevisionId", "State", "LastUpdateStatus",
        "PackageType", "Architectures", "EphemeralStorage",
    ],
    "GetFunctionResponse": ["Configuration", "Code"],
    "FunctionCodeLocation": ["RepositoryType", "Location"],
    "AliasConfiguration": ["AliasArn", "Name", "FunctionVersion", "Description", "RevisionId"],
    "ListFunctionsResponse": ["Functions"],
    "ListVersionsByFunctionResponse": ["Versions"],
    "ListAliasesResponse": ["Aliases"],
    "ListTagsResponse": ["Tags"],
    "GetAccountSettingsResponse": ["AccountLimit", "AccountUsage"],
}
# What functions from container images do not have.
PACKAGE_ONLY = {"Runtime", "Handler", "Location"}
# What the service leaves out although its model requires it: of a function without code signing, everything.
LEFT_OUT = {"GetFunctionCodeSigningConfigResponse": {"CodeSigningConfigArn", "FunctionName"}}
# Exceptions of the service as a whole: the model names them for no operation.
COMMON_ERRORS = {
    "AccessDeniedException", "IncompleteSignatureException", "InvalidSignatureException",
    "MissingAuthenticationTokenException", "MissingParameter", "UnknownOperationException",
    "UnrecognizedClientException", "ValidationException",
}

SCALARS = {
    "string": str, "character": str, "integer": int, "long": int, "float": (int, float), "double": (int, float),
    "boolean": bool, "blob": str, "timestamp": (str, int, float),
}


class Checker:
    def __init__(self):
        self.seen = 0
        self.faults = []
        self.operations = set()
        self.watched = []

    def __call__(self, service_model, response_dict=None, event_name=None, **_):
        operation = service_model.operation_model(event_name.rsplit(".", 1)[1])
        if response_dict is None:
            # There was no answer at all, which the client reports itself.
            return
        self.seen += 1
        self.operations.add(operation.name)
        if response_dict["status_code"] < 300:
            self.check_success(operation, response_dict)
        else:
            self.check_error(operation, response_dict)

    def fault(self, operation, text):
        self.faults.append(f"{operation.name}: {text}")

    def check_success(self, operation, response):
        status, expected = response["status_code"], operation.http.get("responseCode", 200)
        if operation.name in ("Invoke", "InvokeWithResponseStream"):
            expected = status if status in (200, 202, 204) else 200
        if status != expected:
            self.fault(operation, f"status {status}, the model says {expected}")
        if not response["headers"].get("x-amzn-requestid"):
            self.fault(operation, "no x-amzn-RequestId")
        shape = operation.output_shape
        if shape is not None and "payload" in shape.serialization:
            return
        if shape is None or status == 204:
            if response["body"] not in (b"", b"{}"):
                self.fault(operation, f"a body where none is expected: {response['body'][:80]}")
        else:
            self.check(operation, shape, json.loads(response["body"]), shape.name)

    def check_error(self, operation, response):
        status, headers = response["status_code"], response["headers"]
        name = headers.get("x-amzn-errortype", "").split(":")[0]
        body = json.loads(response["body"])
        shapes = {shape.name: shape for shape in operation.error_shapes}
        if name not in shapes:
            if name not in COMMON_ERRORS:
                self.fault(operation, f"exception `{name}` is none of {sorted(shapes)}")
            return
        shape = shapes[name]
        expected = shape.metadata.get("error", {}).get("httpStatusCode")
        if expected and status != expected:
            self.fault(operation, f"{name} with status {status}, the model says {expected}")
        self.check(operation, shape, body, name)
        if not any(body.get(key) for key in ("message", "Message")):
            self.fault(operation, f"{name} has no message: {body}")

    def check(self, operation, shape, value, path):
        kind = shape.type_name
        if value is None:
            # The service writes null for some absent members; clients read it as absent.
            return
        if kind == "structure":
            self.check_structure(operation, shape, value, path)
        elif kind == "list":
            if not isinstance(value, list):
                return self.fault(operation, f"{path} is no list: {value!r}")
            for index, item in enumerate(value):
                self.check(operation, shape.member, item, f"{path}[{index}]")
        elif kind == "map":
            if not isinstance(value, dict):
                return self.fault(operation, f"{path} is no map: {value!r}")
            for key, item in value.items():
                self.check(operation, shape.value, item, f"{path}[{key}]")
        else:
            right = isinstance(value, SCALARS[kind]) and (kind == "boolean" or not isinstance(value, bool))
            if not right:
                self.fault(operation, f"{path} is no {kind}: {value!r}")
            elif getattr(shape, "enum", None) and value not in shape.enum:
                self.fault(operation, f"{path} is `{value}`, none of {shape.enum}")

    def check_structure(self, operation, shape, value, path):
        if not isinstance(value, dict):
            return self.fault(operation, f"{path} is no object: {value!r}")
        in_body = {
            member.serialization.get("name", name): member
            for name, member in shape.members.items()
            # The status of InvokeAsync stands in the body too.
            if member.serialization.get("location") in (None, "body", "statusCode")
        }
        for name, item in value.items():
            if name not in in_body:
                self.fault(operation, f"{path}.{name} is not in the model")
            else:
                self.check(operation, in_body[name], item, f"{path}.{name}")
        for name in [*shape.required_members, *ALWAYS.get(shape.name, [])]:
            of_image = value.get("PackageType") == "Image" or "ImageUri" in value
            absent = name in in_body and value.get(name) is None
            excused = (of_image and name in PACKAGE_ONLY) or name in LEFT_OUT.get(shape.name, ())
            if absent and not excused:
                self.fault(operation, f"{path}.{name} is missing")


SERVICE = "lambda"
ROLE = "arn:aws:iam::123456789012:role/any"
# One for each process: a client of any session is watched by it.
CHECKER = Checker()


def watch(session):
    """Has all answers that clients of `session` get checked."""
    if session.get_component("event_emitter") not in CHECKER.watched:
        CHECKER.watched.append(session.get_component("event_emitter"))
        model = session.get_service_model
        session.register(f"response-received.{SERVICE}", lambda **event: CHECKER(model(SERVICE), **event))


def client(**settings):
    """A client that never retries."""
    settings = {"retries": {"total_max_attempts": 1}, "parameter_validation": True, "read_timeout": 60, **settings}
    return boto3.client(SERVICE, config=Config(**settings))


def report():
    """Says what was wrong with the answers so far; whether anything was."""
    for fault in dict.fromkeys(CHECKER.faults):
        print("FAULT:", fault, file=sys.stderr)
    return bool(CHECKER.faults)


def finish(expected_min):
    """Fails if an answer broke the model, or if fewer answers were seen than there must have been."""
    if report() or CHECKER.seen < expected_min:
        sys.exit(f"{len(CHECKER.faults)} faults in {CHECKER.seen} answers (at least {expected_min} expected)")
    print(f"{CHECKER.seen} answers agree with the model")


def expect_error(code, status, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == (code, status), f"{call.__name__}: {got}, expected {(code, status)}: {error}"
        return error.response
    raise AssertionError(f"{call.__name__} succeeded, expected {code}")


def read(path):
    with open(path, "rb") as file:
        return file.read()

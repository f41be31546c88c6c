"""The control of `wire.py`: it finds each way in which an answer can be wrong, and nothing in one that is right."""
import json

import botocore.session

import wire

MODEL = botocore.session.Session().get_service_model("lambda")
ALIAS = {"AliasArn": "arn", "Name": "live", "FunctionVersion": "1", "Description": "", "RevisionId": "r"}
URL = {"FunctionUrl": "u", "FunctionArn": "a", "AuthType": "NONE", "CreationTime": "t", "LastModifiedTime": "t"}
MISSING = {"Type": "User", "Message": "no such thing"}


def faults(operation, status, body, error=None):
    checker = wire.Checker()
    headers = {"x-amzn-requestid": "id"}
    if error:
        headers["x-amzn-errortype"] = error
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = {"status_code": status, "headers": headers, "body": raw}
    checker(MODEL, response_dict=response, event_name=f"response-received.lambda.{operation}")
    assert checker.seen == 1
    return checker.faults


def without(body, name):
    return {key: value for key, value in body.items() if key != name}


RIGHT = [
    ("GetAlias", 200, ALIAS, None),
    ("GetFunctionUrlConfig", 200, URL, None),
    ("DeleteAlias", 204, b"", None),
    ("GetAlias", 404, MISSING, "ResourceNotFoundException"),
]
WRONG = {
    "a wrong status": ("GetAlias", 201, ALIAS, None),
    "a member of a wrong type": ("GetAlias", 200, {**ALIAS, "Name": 3}, None),
    "a truth that is a number": ("GetFunctionUrlConfig", 200, {**URL, "Cors": {"AllowCredentials": 1}}, None),
    "a member that the model lacks": ("GetAlias", 200, {**ALIAS, "Colour": "red"}, None),
    "a member in the wrong case": ("GetFunctionUrlConfig", 200, {**URL, "authType": "NONE"}, None),
    "a value outside an enumeration": ("GetFunctionUrlConfig", 200, {**URL, "AuthType": "ANYONE"}, None),
    "a required member that is missing": ("GetFunctionUrlConfig", 200, without(URL, "FunctionUrl"), None),
    "an item of a wrong type": ("ListTags", 200, {"Tags": {"a": 1}}, None),
    "an object in place of a list": ("ListAliases", 200, {"Aliases": {}}, None),
    "a body where none belongs": ("DeleteAlias", 204, {"done": True}, None),
    "an exception that the operation has not": ("GetAlias", 409, MISSING, "ResourceInUseException"),
    "an exception with another's status": ("GetAlias", 400, MISSING, "ResourceNotFoundException"),
    "an exception with a member in the wrong case": (
        "CreateAlias", 409, {"Type": "User", "Message": "x"}, "ResourceConflictException"),
    "an exception without a message": ("GetAlias", 404, {"Type": "User"}, "ResourceNotFoundException"),
}

for answer in RIGHT:
    assert not faults(*answer), (answer, faults(*answer))
for what, answer in WRONG.items():
    assert faults(*answer), f"{what} is not found"
print(f"{len(WRONG)} wrong answers are found, {len(RIGHT)} right ones pass")

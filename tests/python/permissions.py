"""Keys and signatures through boto3 and the AWS CLI.

usage: permissions.py JSON
  endpoint        where the node is
  owner, partner  keys of two accounts, as `bowline keys create --json` shows them
  zip, runtime, handler  of a function
"""
import datetime
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from unittest import mock

import boto3
import botocore
import botocore.auth
from botocore.config import Config
from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::000000000000:role/any"
RUNTIME = f"python3.{sys.version_info[1]}"


def client(case, key, secret=None, region="us-east-1", token=None):
    return boto3.client(
        "lambda", endpoint_url=case["endpoint"], region_name=region, aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=secret or key["secret_access_key"], aws_session_token=token,
        config=Config(retries={"total_max_attempts": 1}),
    )


def archive(name, text):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zip:
        # Without a date, so that the same words always make the same archive.
        zip.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def expect(code, status, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == (code, status), f"{call.__name__}: {got}, expected {(code, status)}: {error}"
        return error.response["Error"]["Message"]
    raise AssertionError(f"{call.__name__} succeeded, expected {code}")


def invoke(of, name):
    answer = of.invoke(FunctionName=name, Payload=b'{"name": "ada"}')
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
    return answer["Payload"].read()


def strangers(case, owner):
    """Whoever cannot sign is not let in; the same request signed well is the control."""
    wrong = client(case, case["owner"], "x" * 40)
    expect("InvalidSignatureException", 403, wrong.list_functions)
    unknown = client(case, {"access_key_id": "123456789012", "secret_access_key": "any"})
    expect("UnrecognizedClientException", 403, unknown.list_functions)
    temporary = client(case, case["owner"], token="a token that nobody here gave out")
    message = expect("UnrecognizedClientException", 403, temporary.list_functions)
    assert message.startswith("The security token included in the request is invalid"), message
    message = expect("InvalidSignatureException", 403, client(case, case["owner"], region="eu-west-1").list_functions)
    assert "us-east-1" in message, message
    unsigned = boto3.client(
        "lambda", endpoint_url=case["endpoint"], region_name="us-east-1", config=Config(signature_version=botocore.UNSIGNED),
    )
    expect("MissingAuthenticationTokenException", 403, unsigned.list_functions)
    owner.list_functions()


def clocks(owner):
    """A clock that is wrong: also what a replay after that time looks like."""
    moment = [0]
    original = botocore.auth.SigV4Auth.add_auth

    def add_auth(self, request):
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=moment[0])
        with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None)):
            return original(self, request)

    with mock.patch.object(botocore.auth.SigV4Auth, "add_auth", add_auth):
        for minutes, why in ((-6, "Signature expired"), (6, "Signature not yet current")):
            moment[0] = minutes
            message = expect("InvalidSignatureException", 403, owner.list_functions)
            assert message.startswith(why), message
        for minutes in (-4, 4, 0):
            moment[0] = minutes
            owner.list_functions()


def tampered(owner, name):
    """What is changed between signing and sending is noticed."""
    def change(request, **_):
        request.body = request.body.replace(b"ada", b"eve")

    owner.meta.events.register("before-send.lambda.Invoke", change)
    expect("InvalidSignatureException", 403, owner.invoke, FunctionName=name, Payload=b'{"name": "ada"}')
    owner.meta.events.unregister("before-send.lambda.Invoke", change)
    invoke(owner, name)


def links(case, owner, name):
    """A presigned query stands for a signature, and so does the link to a package."""
    url = owner.generate_presigned_url("get_function", Params={"FunctionName": name}, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert json.load(answer)["Configuration"]["FunctionName"] == name
    location = owner.get_function(FunctionName=name)["Code"]["Location"]
    with urllib.request.urlopen(location) as answer, open(case["zip"], "rb") as package:
        assert answer.read() == package.read()
    layer = owner.publish_layer_version(LayerName="knots", Content={"ZipFile": archive("a", "b")})
    with urllib.request.urlopen(layer["Content"]["Location"]) as answer:
        assert answer.read() == archive("a", "b")
    for bad in (url.replace("X-Amz-Signature=", "X-Amz-Signature=0"), location.replace("version=", "version=1")):
        try:
            urllib.request.urlopen(bad)
        except urllib.error.HTTPError as error:
            assert error.code == 403, error
        else:
            raise AssertionError(f"{bad} was answered")


def partners(case, owner, name):
    """Another account needs a permission, and gets no more than that."""
    partner = client(case, case["partner"])
    arn = owner.get_function_configuration(FunctionName=name)["FunctionArn"]
    expect("ResourceNotFoundException", 404, partner.get_function, FunctionName=name)
    expect("AccessDeniedException", 403, partner.invoke, FunctionName=arn)
    statement = dict(
        FunctionName=name, StatementId="partner", Action="lambda:InvokeFunction", Principal=case["partner"]["account"],
    )
    added = json.loads(owner.add_permission(**statement)["Statement"])
    assert added["Resource"] == arn and added["Effect"] == "Allow", added
    expect("ResourceConflictException", 409, owner.add_permission, **statement)
    invoke(partner, arn)
    expect("AccessDeniedException", 403, partner.get_function, FunctionName=arn)
    expect("AccessDeniedException", 403, partner.delete_function, FunctionName=arn)
    policy = owner.get_policy(FunctionName=name)
    assert json.loads(policy["Policy"])["Statement"] == [added]
    whole = owner.get_resource_policy(ResourceArn=arn)
    assert whole["Policy"] == policy["Policy"] and whole["RevisionId"] == policy["RevisionId"]
    owner.remove_permission(FunctionName=name, StatementId="partner", RevisionId=policy["RevisionId"])
    expect("AccessDeniedException", 403, partner.invoke, FunctionName=arn)
    document = json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": case["partner"]["account"]}, "Action": "lambda:Get*", "Resource": arn},
    ]})
    expect("InvalidParameterValueException", 400, owner.put_resource_policy, ResourceArn=arn, Policy=document)
    document = document.replace("lambda:Get*", "lambda:GetFunction")
    put = owner.put_resource_policy(ResourceArn=arn, Policy=document)
    assert partner.get_function(FunctionName=arn)["Configuration"]["FunctionName"] == name
    owner.delete_resource_policy(ResourceArn=arn, RevisionId=put["RevisionId"])
    expect("AccessDeniedException", 403, partner.get_function, FunctionName=arn)


def urls(case, owner):
    """A function behind a URL knows that its caller came by TLS."""
    owner.create_function(
        FunctionName="web", Runtime=RUNTIME, Handler="app.handler", Role=ROLE,
        Code={"ZipFile": archive("app.py", "def handler(event, context):\n    return event['headers']\n")},
    )
    owner.get_waiter("function_active_v2").wait(FunctionName="web")
    url = owner.create_function_url_config(FunctionName="web", AuthType="NONE")["FunctionUrl"]
    assert url.startswith("https://"), url
    # The certificate is for the address, not for names below `localhost`.
    request = urllib.request.Request(f"{case['endpoint']}/", headers={"host": url.split("/")[2]})
    open_url(owner, "web", request)
    with urllib.request.urlopen(request, timeout=30) as answer:
        headers = json.load(answer)
    assert headers["x-forwarded-proto"] == "https", headers
    assert case["endpoint"].endswith(":" + headers["x-forwarded-port"]), headers


def forbidden(request):
    try:
        urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as refused:
        assert (refused.code, refused.headers["x-amzn-errortype"]) == (403, "AccessDeniedException"), refused
        assert json.load(refused)["Message"].startswith("Forbidden. For troubleshooting Function URL authorization")
        return
    raise AssertionError("the URL is open")


def open_url(owner, name, request):
    """Both permissions are needed, and the one for the function holds for calls by its URL alone."""
    forbidden(request)
    owner.add_permission(FunctionName=name, StatementId="all", Action="lambda:InvokeFunctionUrl", Principal="*",
                         FunctionUrlAuthType="NONE")
    forbidden(request)
    added = owner.add_permission(FunctionName=name, StatementId="via", Action="lambda:InvokeFunction", Principal="*",
                                 InvokedViaFunctionUrl=True)
    condition = json.loads(added["Statement"])["Condition"]
    assert condition == {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}, condition


def command_line(name):
    """The AWS CLI signs with the environment's keys."""
    run = subprocess.run(
        ["aws", "lambda", "get-function-configuration", "--function-name", name, "--output", "json"],
        check=True, capture_output=True, text=True,
    )
    assert json.loads(run.stdout)["FunctionName"] == name, run.stdout


def main():
    case = json.loads(sys.argv[1])
    owner = client(case, case["owner"])
    strangers(case, owner)
    clocks(owner)
    with open(case["zip"], "rb") as package:
        owner.create_function(
            FunctionName="guarded", Runtime=case["runtime"], Handler=case["handler"], Role=ROLE,
            Code={"ZipFile": package.read()},
        )
    owner.get_waiter("function_active_v2").wait(FunctionName="guarded")
    invoke(owner, "guarded")
    tampered(owner, "guarded")
    links(case, owner, "guarded")
    partners(case, owner, "guarded")
    urls(case, owner)
    command_line("guarded")


main()

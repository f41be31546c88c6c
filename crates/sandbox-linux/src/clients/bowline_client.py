"""Runs a Python handler against the Lambda Runtime API.

The interpreter is started without code: it imports what handlers commonly need and blocks on file
descriptor 3 until one line of JSON names the environment and the handler. From there on it behaves as
the official client does. Answers and the request for the next event share one write, so that the
platform can answer both with one.
"""

import os
import sys

CONTROL_FD = 3
TASK_ROOT = "/var/task"
RECEIVE_BYTES = 65536
# What handlers import most; a name that is absent from this interpreter is passed over.
PRELOADED = (
    "asyncio base64 collections contextlib copy dataclasses datetime decimal enum functools hashlib hmac "
    "http.client inspect io itertools json logging math operator pathlib queue random re secrets shutil "
    "socket ssl string struct tempfile threading time traceback types typing urllib.parse urllib.request "
    "uuid warnings"
).split()


def preload():
    import gc
    import importlib

    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    json.loads(json.dumps({"warm": [1, 2.5, None, True, "x"]}, ensure_ascii=False))
    # What lives now lives for ever: the collector need not look at it again.
    gc.collect()
    gc.freeze()


import json
import socket
import time


class Fault(Exception):
    """An error whose type and text are fixed by the runtime rather than by the handler."""

    def __init__(self, error_type, message, trace=None):
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.trace = trace


class CognitoIdentity:
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, fields):
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")


class Client:
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")

    def __init__(self, fields):
        for name in self.__slots__:
            setattr(self, name, fields.get(name))


class ClientContext:
    __slots__ = ("custom", "env", "client")

    def __init__(self, fields):
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        self.client = Client(fields.get("client") or {})


class LambdaContext:
    """What the platform tells a handler about its invocation."""

    def __init__(self, headers):
        environ = os.environ
        self.aws_request_id = headers[b"lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get(b"lambda-runtime-invoked-function-arn")
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.tenant_id = headers.get(b"lambda-runtime-aws-tenant-id")
        client = self._fields(headers, b"lambda-runtime-client-context")
        self.client_context = None if client is None else ClientContext(client)
        self.identity = CognitoIdentity(self._fields(headers, b"lambda-runtime-cognito-identity") or {})
        self._deadline_ms = int(headers.get(b"lambda-runtime-deadline-ms", 0))

    @staticmethod
    def _fields(headers, name):
        text = headers.get(name)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise Fault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {name.decode()}: {error}")

    def get_remaining_time_in_millis(self):
        return max(self._deadline_ms - int(time.time() * 1000), 0)

    def log(self, message):
        sys.stdout.write(str(message))

    def __repr__(self):
        shown = (
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id"
        ).split()
        return "LambdaContext([" + ",".join(f"{name}={getattr(self, name)}" for name in shown) + "])"


class RuntimeApi:
    """A connection to the Runtime API that is opened on first use and kept."""

    def __init__(self, address):
        host, _, rest = address.partition(":")
        port, slash, base = rest.partition("/")
        self.address = (host, int(port or 80))
        self.prefix = f"{slash}{base}/2018-06-01/runtime/"
        self.tail = f" HTTP/1.1\r\nHost: {address}\r\n"
        self.next_request = f"GET {self.prefix}invocation/next{self.tail}\r\n".encode()
        self.connection = None
        self.received = b""

    def send(self, data):
        if self.connection is None:
            self.connection = socket.create_connection(self.address)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(data)

    def post(self, path, body, headers=""):
        head = f"POST {self.prefix}{path}{self.tail}Content-Length: {len(body)}\r\n{headers}\r\n"
        return head.encode("latin-1", "replace") + body

    def receive(self):
        """Reads one response: its status, its headers with lower-case names, its body."""
        data = self.received
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        lines = data[:end].split(b"\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip().decode("latin-1")
        length = int(headers.get(b"content-length", 0))
        end += 4
        if len(data) < end + length:
            parts, missing = [data], end + length - len(data)
            while missing > 0:
                part = self._more(max(RECEIVE_BYTES, min(missing, 1 << 20)))
                parts.append(part)
                missing -= len(part)
            data = b"".join(parts)
        self.received = data[end + length :]
        return int(lines[0].split(b" ", 2)[1]), headers, data[end : end + length]

    def _more(self, size=RECEIVE_BYTES):
        part = self.connection.recv(size)
        if not part:
            # The platform went away: nothing is left to do.
            os._exit(0)
        return part


def error_headers(error_type):
    # A class may be called anything; a header field may not.
    error_type = "".join(character if " " <= character <= "~" else "?" for character in error_type)
    return f"Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: {error_type}\r\n"


def frames(error):
    """The stack of an exception, without the frames of this file."""
    import traceback

    stack = traceback.extract_tb(error.__traceback__)
    while stack and stack[0].filename == __file__:
        del stack[0]
    return traceback.format_list(stack)


def describe(error, request_id=""):
    """The payload the official client makes of an exception, and its type."""
    if isinstance(error, Fault):
        error_type, message, trace = error.error_type, error.message, error.trace or []
    else:
        error_type, message, trace = type(error).__name__, str(error), frames(error)
    payload = {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace}
    return error_type, payload


def report(payload):
    """Writes an error to the log in the official client's form, or as the log has it."""
    sys.stdout.flush()
    if log_is_json:
        if error_is_logged:
            members = {"timestamp": timestamp(time.time()), "level": "ERROR"}
            members["message"] = f"{payload['errorType']}: {payload['errorMessage']}"
            members.update((name, value) for name, value in payload.items() if value)
            sys.stderr.write(json.dumps(members) + "\n")
        return
    text = f"[ERROR] {payload['errorType']}: {payload['errorMessage']}\n"
    if payload["stackTrace"]:
        text += "Traceback (most recent call last):\n" + "".join(payload["stackTrace"])
    sys.stderr.write(text if text.endswith("\n") else text + "\n")


def load_handler(name):
    import importlib

    module_name, dot, function_name = name.rpartition(".")
    if not dot or not module_name:
        raise Fault("Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}")
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise Fault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {error}", trace)
    try:
        return getattr(module, function_name)
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", f"Handler '{function_name}' missing on module '{module_name}'")


def plain(value):
    """What JSON does not know but handlers return."""
    from decimal import Decimal

    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent >= 0 else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


encode = json.JSONEncoder(ensure_ascii=False, default=plain).encode


def serialise(answer):
    if hasattr(answer, "read"):
        data = answer.read()
        return data if isinstance(data, bytes) else data.encode("utf-8")
    try:
        return encode(answer).encode("utf-8")
    except Exception as error:
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {error}", frames(error))


def timestamp(seconds):
    """A moment as `2026-11-20T23:24:39.123Z`."""
    millis = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(millis // 1000)) + f".{millis % 1000:03d}Z"


def json_formatter():
    """What makes a JSON object of each record, with whatever `extra` brought."""
    import logging
    import traceback

    def plain(value):
        """The value, or a text where it has no form in JSON: a circle, a key that is no text, a number that is none."""
        try:
            json.dumps(value, allow_nan=False, default=str)
            return value
        except (TypeError, ValueError):
            return str(value)

    own = set(logging.makeLogRecord({}).__dict__) | {"aws_request_id", "asctime", "message", "taskName"}

    class JsonFormatter(logging.Formatter):
        def format(self, record):
            members = {
                "timestamp": timestamp(record.created),
                "level": record.levelname,
                "message": record.getMessage(),
                "logger": record.name,
            }
            if record.aws_request_id:
                members["requestId"] = record.aws_request_id
            if record.exc_info and record.exc_info[0]:
                error_type, error, trace = record.exc_info
                members["errorType"] = error_type.__name__
                members["errorMessage"] = str(error)
                members["stackTrace"] = traceback.format_tb(trace)
                members["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
            for name, value in record.__dict__.items():
                if name not in own:
                    members.setdefault(name, plain(value))
            return json.dumps(members, ensure_ascii=False, default=str)

    return JsonFormatter()


def install_logging():
    global log_is_json, error_is_logged
    import logging

    class RequestFilter(logging.Filter):
        def filter(self, record):
            record.aws_request_id = current_request_id
            return True

    handler = logging.StreamHandler(sys.stdout)
    log_is_json = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL")
    level = "DEBUG" if level == "TRACE" else level
    is_level = level in ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
    if log_is_json:
        handler.setFormatter(json_formatter())
        error_is_logged = level != "FATAL"
        if is_level:
            # Whatever the function makes of the root logger's level, the log's own holds.
            handler.setLevel(level)
    else:
        formatter = logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    handler.addFilter(RequestFilter())
    logging.getLogger().addHandler(handler)
    if is_level:
        logging.getLogger().setLevel(level)


log_is_json = False
error_is_logged = True
current_request_id = ""


def answer_to(api, handler, headers, event):
    """Runs the handler once; gives the request that carries its answer or its error."""
    global current_request_id
    request_id = current_request_id = headers[b"lambda-runtime-aws-request-id"]
    trace_id = headers.get(b"lambda-runtime-trace-id")
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    try:
        context = LambdaContext(headers)
        try:
            value = json.loads(event)
        except ValueError as error:
            raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}")
        body = serialise(handler(value, context))
        request = api.post(f"invocation/{request_id}/response", body, "Content-Type: application/json\r\n")
    except Exception as error:
        error_type, payload = describe(error, request_id)
        report(payload)
        body = json.dumps(payload).encode()
        request = api.post(f"invocation/{request_id}/error", body, error_headers(error_type))
    sys.stdout.flush()
    sys.stderr.flush()
    return request


def serve(api, handler):
    api.send(api.next_request)
    while True:
        _, headers, event = api.receive()
        api.send(answer_to(api, handler, headers, event) + api.next_request)
        status, _, body = api.receive()
        if status >= 500:
            sys.stderr.write(f"runtime API answered {status}: {body.decode('utf-8', 'replace')}\n")
            os._exit(1)


def fail_init(api, error):
    error_type, payload = describe(error)
    report(payload)
    api.send(api.post("init/error", json.dumps(payload).encode(), error_headers(error_type)))
    api.receive()
    sys.stdout.flush()
    os._exit(1)


def wait_for_orders():
    """Says that all is loaded, then blocks until the platform says what to become."""
    os.write(CONTROL_FD, b"\n")
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(CONTROL_FD, RECEIVE_BYTES)
        if not part:
            os._exit(0)
        data += part
    os.close(CONTROL_FD)
    return json.loads(data)


def become(orders):
    """Takes on the function's environment, as if the interpreter had been started with it."""
    environment = orders["environment"]
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    os.environ.update(environment)
    time.tzset()
    os.chdir(TASK_ROOT)
    layer = f"/opt/python/lib/python3.{sys.version_info[1]}/site-packages"
    sys.path[0:1] = [TASK_ROOT, *(path for path in (layer, "/opt/python") if os.path.isdir(path)), sys.path[0]]
    sys.path_importer_cache.clear()
    sys.argv[:] = [TASK_ROOT]
    # A file reports its errors and flushes with every line, as a terminal would.
    sys.stdout.reconfigure(line_buffering=True)


def main():
    preload()
    orders = wait_for_orders()
    become(orders)
    install_logging()
    api = RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"])
    # The handler's modules must not find this one under the name they would use for their own.
    try:
        handler = load_handler(orders["handler"])
    except SystemExit as error:
        sys.stdout.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException as error:
        fail_init(api, error)
    serve(api, handler)


if __name__ == "__main__":
    main()

//! Every operation by its request line, and what a path may look like.

use super::*;

/// Lambda's operations: name, method, path. Each `{}` is a parameter.
const OPERATIONS: &[(&str, &str, &str)] = &[
    (
        "AddLayerVersionPermission",
        "POST",
        "/2018-10-31/layers/{}/versions/{}/policy",
    ),
    ("AddPermission", "POST", "/2015-03-31/functions/{}/policy"),
    (
        "CheckpointDurableExecution",
        "POST",
        "/2025-12-01/durable-executions/{}/checkpoint",
    ),
    ("CreateAlias", "POST", "/2015-03-31/functions/{}/aliases"),
    ("CreateCapacityProvider", "POST", "/2025-11-30/capacity-providers"),
    ("CreateCodeSigningConfig", "POST", "/2020-04-22/code-signing-configs"),
    ("CreateEventSourceMapping", "POST", "/2015-03-31/event-source-mappings"),
    ("CreateFunction", "POST", "/2015-03-31/functions"),
    ("CreateFunctionUrlConfig", "POST", "/2021-10-31/functions/{}/url"),
    ("DeleteAlias", "DELETE", "/2015-03-31/functions/{}/aliases/{}"),
    ("DeleteCapacityProvider", "DELETE", "/2025-11-30/capacity-providers/{}"),
    (
        "DeleteCodeSigningConfig",
        "DELETE",
        "/2020-04-22/code-signing-configs/{}",
    ),
    ("DeleteDurableExecution", "DELETE", "/2025-12-01/durable-executions/{}"),
    (
        "DeleteEventSourceMapping",
        "DELETE",
        "/2015-03-31/event-source-mappings/{}",
    ),
    ("DeleteFunction", "DELETE", "/2015-03-31/functions/{}"),
    (
        "DeleteFunctionCodeSigningConfig",
        "DELETE",
        "/2020-06-30/functions/{}/code-signing-config",
    ),
    (
        "DeleteFunctionConcurrency",
        "DELETE",
        "/2017-10-31/functions/{}/concurrency",
    ),
    (
        "DeleteFunctionEventInvokeConfig",
        "DELETE",
        "/2019-09-25/functions/{}/event-invoke-config",
    ),
    ("DeleteFunctionUrlConfig", "DELETE", "/2021-10-31/functions/{}/url"),
    ("DeleteLayerVersion", "DELETE", "/2018-10-31/layers/{}/versions/{}"),
    (
        "DeleteProvisionedConcurrencyConfig",
        "DELETE",
        "/2019-09-30/functions/{}/provisioned-concurrency",
    ),
    ("DeleteResourcePolicy", "DELETE", "/2026-07-09/resource-policy/{}"),
    ("GetAccountSettings", "GET", "/2016-08-19/account-settings"),
    ("GetAlias", "GET", "/2015-03-31/functions/{}/aliases/{}"),
    ("GetCapacityProvider", "GET", "/2025-11-30/capacity-providers/{}"),
    ("GetCodeSigningConfig", "GET", "/2020-04-22/code-signing-configs/{}"),
    ("GetDurableExecution", "GET", "/2025-12-01/durable-executions/{}"),
    (
        "GetDurableExecutionHistory",
        "GET",
        "/2025-12-01/durable-executions/{}/history",
    ),
    (
        "GetDurableExecutionState",
        "GET",
        "/2025-12-01/durable-executions/{}/state",
    ),
    ("GetEventSourceMapping", "GET", "/2015-03-31/event-source-mappings/{}"),
    ("GetFunction", "GET", "/2015-03-31/functions/{}"),
    (
        "GetFunctionCodeSigningConfig",
        "GET",
        "/2020-06-30/functions/{}/code-signing-config",
    ),
    ("GetFunctionConcurrency", "GET", "/2019-09-30/functions/{}/concurrency"),
    (
        "GetFunctionConfiguration",
        "GET",
        "/2015-03-31/functions/{}/configuration",
    ),
    (
        "GetFunctionEventInvokeConfig",
        "GET",
        "/2019-09-25/functions/{}/event-invoke-config",
    ),
    (
        "GetFunctionRecursionConfig",
        "GET",
        "/2024-08-31/functions/{}/recursion-config",
    ),
    (
        "GetFunctionScalingConfig",
        "GET",
        "/2025-11-30/functions/{}/function-scaling-config",
    ),
    ("GetFunctionUrlConfig", "GET", "/2021-10-31/functions/{}/url"),
    ("GetLayerVersion", "GET", "/2018-10-31/layers/{}/versions/{}"),
    ("GetLayerVersionByArn", "GET", "/2018-10-31/layers?find=LayerVersion"),
    (
        "GetLayerVersionPolicy",
        "GET",
        "/2018-10-31/layers/{}/versions/{}/policy",
    ),
    ("GetPolicy", "GET", "/2015-03-31/functions/{}/policy"),
    (
        "GetProvisionedConcurrencyConfig",
        "GET",
        "/2019-09-30/functions/{}/provisioned-concurrency",
    ),
    ("GetResourcePolicy", "GET", "/2026-07-09/resource-policy/{}"),
    (
        "GetRuntimeManagementConfig",
        "GET",
        "/2021-07-20/functions/{}/runtime-management-config",
    ),
    ("Invoke", "POST", "/2015-03-31/functions/{}/invocations"),
    ("InvokeAsync", "POST", "/2014-11-13/functions/{}/invoke-async"),
    (
        "InvokeWithResponseStream",
        "POST",
        "/2021-11-15/functions/{}/response-streaming-invocations",
    ),
    ("ListAliases", "GET", "/2015-03-31/functions/{}/aliases"),
    ("ListCapacityProviders", "GET", "/2025-11-30/capacity-providers"),
    ("ListCodeSigningConfigs", "GET", "/2020-04-22/code-signing-configs"),
    (
        "ListDurableExecutionsByFunction",
        "GET",
        "/2025-12-01/functions/{}/durable-executions",
    ),
    ("ListEventSourceMappings", "GET", "/2015-03-31/event-source-mappings"),
    (
        "ListFunctionEventInvokeConfigs",
        "GET",
        "/2019-09-25/functions/{}/event-invoke-config/list",
    ),
    ("ListFunctionUrlConfigs", "GET", "/2021-10-31/functions/{}/urls"),
    (
        "ListFunctionVersionsByCapacityProvider",
        "GET",
        "/2025-11-30/capacity-providers/{}/function-versions",
    ),
    ("ListFunctions", "GET", "/2015-03-31/functions"),
    (
        "ListFunctionsByCodeSigningConfig",
        "GET",
        "/2020-04-22/code-signing-configs/{}/functions",
    ),
    ("ListLayerVersions", "GET", "/2018-10-31/layers/{}/versions"),
    ("ListLayers", "GET", "/2018-10-31/layers"),
    (
        "ListProvisionedConcurrencyConfigs",
        "GET",
        "/2019-09-30/functions/{}/provisioned-concurrency?List=ALL",
    ),
    ("ListTags", "GET", "/2017-03-31/tags/{}"),
    ("ListVersionsByFunction", "GET", "/2015-03-31/functions/{}/versions"),
    (
        "PauseDurableExecution",
        "POST",
        "/2025-12-01/durable-executions/{}/pause",
    ),
    ("PublishLayerVersion", "POST", "/2018-10-31/layers/{}/versions"),
    ("PublishVersion", "POST", "/2015-03-31/functions/{}/versions"),
    (
        "PutFunctionCodeSigningConfig",
        "PUT",
        "/2020-06-30/functions/{}/code-signing-config",
    ),
    ("PutFunctionConcurrency", "PUT", "/2017-10-31/functions/{}/concurrency"),
    (
        "PutFunctionEventInvokeConfig",
        "PUT",
        "/2019-09-25/functions/{}/event-invoke-config",
    ),
    (
        "PutFunctionRecursionConfig",
        "PUT",
        "/2024-08-31/functions/{}/recursion-config",
    ),
    (
        "PutFunctionScalingConfig",
        "PUT",
        "/2025-11-30/functions/{}/function-scaling-config",
    ),
    (
        "PutProvisionedConcurrencyConfig",
        "PUT",
        "/2019-09-30/functions/{}/provisioned-concurrency",
    ),
    ("PutResourcePolicy", "PUT", "/2026-07-09/resource-policy/{}"),
    (
        "PutRuntimeManagementConfig",
        "PUT",
        "/2021-07-20/functions/{}/runtime-management-config",
    ),
    (
        "RemoveLayerVersionPermission",
        "DELETE",
        "/2018-10-31/layers/{}/versions/{}/policy/{}",
    ),
    ("RemovePermission", "DELETE", "/2015-03-31/functions/{}/policy/{}"),
    (
        "ResumeDurableExecution",
        "POST",
        "/2025-12-01/durable-executions/{}/resume",
    ),
    (
        "SendDurableExecutionCallbackFailure",
        "POST",
        "/2025-12-01/durable-execution-callbacks/{}/fail",
    ),
    (
        "SendDurableExecutionCallbackHeartbeat",
        "POST",
        "/2025-12-01/durable-execution-callbacks/{}/heartbeat",
    ),
    (
        "SendDurableExecutionCallbackSuccess",
        "POST",
        "/2025-12-01/durable-execution-callbacks/{}/succeed",
    ),
    ("StopDurableExecution", "POST", "/2025-12-01/durable-executions/{}/stop"),
    ("TagResource", "POST", "/2017-03-31/tags/{}"),
    ("UntagResource", "DELETE", "/2017-03-31/tags/{}"),
    ("UpdateAlias", "PUT", "/2015-03-31/functions/{}/aliases/{}"),
    ("UpdateCapacityProvider", "PUT", "/2025-11-30/capacity-providers/{}"),
    ("UpdateCodeSigningConfig", "PUT", "/2020-04-22/code-signing-configs/{}"),
    (
        "UpdateEventSourceMapping",
        "PUT",
        "/2015-03-31/event-source-mappings/{}",
    ),
    ("UpdateFunctionCode", "PUT", "/2015-03-31/functions/{}/code"),
    (
        "UpdateFunctionConfiguration",
        "PUT",
        "/2015-03-31/functions/{}/configuration",
    ),
    (
        "UpdateFunctionEventInvokeConfig",
        "POST",
        "/2019-09-25/functions/{}/event-invoke-config",
    ),
    ("UpdateFunctionUrlConfig", "PUT", "/2021-10-31/functions/{}/url"),
];

/// Resources as clients write them, each with what it means.
const RESOURCES: &[(&str, &str)] = &[
    ("hello", "hello"),
    ("hello:live", "hello:live"),
    ("hello%3A%24LATEST", "hello:$LATEST"),
    ("123456789012:function:hello", "123456789012:function:hello"),
    (
        "arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Ahello%3A7",
        "arn:aws:lambda:us-east-1:123456789012:function:hello:7",
    ),
    (
        "arn:aws:lambda:us-east-1:123456789012:function:hello",
        "arn:aws:lambda:us-east-1:123456789012:function:hello",
    ),
    ("a%2Fb", "a/b"),
];

fn named(method: &str, target: &str) -> Result<&'static str, RouteError> {
    resolve(method, target).map(|route| route.operation.name())
}

#[test]
fn all_operations_are_known_by_their_request_line() {
    assert_eq!(OPERATIONS.len(), Operation::LAMBDA);
    for (name, method, path) in OPERATIONS {
        for (written, meant) in RESOURCES {
            let target = path.replace("{}", written);
            let route = resolve(method, &target).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
            assert_eq!(route.operation.name(), *name, "{method} {target}");
            let parameters = path.matches("{}").count();
            if parameters > 0 {
                assert_eq!(route.resource, *meant, "{method} {target}");
            }
            if parameters > 1 {
                assert_eq!(route.part, *meant, "{method} {target}");
            }
        }
    }
}

#[test]
fn the_table_names_each_of_lambdas_operations_once() {
    let mut listed: Vec<_> = OPERATIONS.iter().map(|(name, ..)| *name).collect();
    let mut known: Vec<_> = Operation::ALL[..Operation::LAMBDA]
        .iter()
        .map(|operation| operation.name())
        .collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

#[test]
fn trailing_slashes_and_queries_change_nothing() {
    for (name, method, path) in OPERATIONS {
        let target = path.replace("{}", "x");
        let (path, query) = target.split_once('?').unwrap_or((&target, "a=b"));
        assert_eq!(named(method, &format!("{path}/?{query}")), Ok(*name));
        assert_eq!(named(method, &format!("{path}//?{query}&Qualifier=1")), Ok(*name));
    }
}

#[test]
fn the_date_and_the_query_tell_operations_apart() {
    let check = |method, target, name| assert_eq!(named(method, target), Ok(name), "{target}");
    check("GET", "/2019-09-30/functions/f/concurrency", "GetFunctionConcurrency");
    check("PUT", "/2017-10-31/functions/f/concurrency", "PutFunctionConcurrency");
    check(
        "GET",
        "/2019-09-30/functions/f/provisioned-concurrency?List=ALL",
        "ListProvisionedConcurrencyConfigs",
    );
    check(
        "GET",
        "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1",
        "GetProvisionedConcurrencyConfig",
    );
    check(
        "GET",
        "/2018-10-31/layers?find=LayerVersion&Arn=a",
        "GetLayerVersionByArn",
    );
    check("GET", "/2018-10-31/layers", "ListLayers");
}

#[test]
fn anything_else_is_unknown() {
    for (method, target) in [
        ("GET", "/2017-10-31/functions/f/concurrency"),
        ("PATCH", "/2015-03-31/functions/f"),
        ("GET", "/2015-03-31/function/f"),
        ("GET", "/2099-01-01/functions/f"),
        ("GET", "/2015-03-31/functions/f/aliases/a/b"),
        ("POST", "/2015-03-31/functions/a/b/invocations"),
        ("GET", "/a/b/c/d/e/f/g/h/i/j"),
        ("GET", "favicon.ico"),
        ("OPTIONS", "*"),
        ("GET", ""),
        ("GET", "?"),
        ("POST", "/healthz"),
    ] {
        assert_eq!(named(method, target), Err(RouteError::Unknown), "{method} {target}");
    }
    assert_eq!(
        named("GET", "/2015-03-31/functions/%ff"),
        Err(RouteError::Encoding),
        "bytes that are no UTF-8"
    );
}

#[test]
fn the_nodes_own_endpoints_are_known() {
    let check = |target, name| assert_eq!(named("GET", target), Ok(name), "{target}");
    check("/", "Welcome");
    check("/healthz", "Health");
    check("/metrics/", "Metrics");
    check("/v1/functions/hello/logs?follow=true", "ReadLogs");
    check("/v1/functions/hello/code?version=1", "ReadCode");
    check("/v1/functions/hello/sizing", "GetSizing");
    check("/v1/functions/hello/checkpointing?version=1", "ReadCheckpointing");
    check("/v1/layers/knots/versions/1/content", "ReadLayer");
    check("/v1/images?MaxItems=3", "ListImages");
}

#[test]
fn parts_that_are_not_encoded_are_not_copied() {
    let route = resolve("PUT", "/2015-03-31/functions/hello/aliases/live").expect("a known path");
    assert!(matches!(route.resource, Cow::Borrowed("hello")));
    assert!(matches!(route.part, Cow::Borrowed("live")));
}

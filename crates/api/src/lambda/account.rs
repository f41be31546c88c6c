//! The account's limits and what it uses of them.

use bowline_foundation::limits::{CODE_STORAGE_BYTES_MAX, UNZIPPED_CODE_BYTES_MAX, ZIPPED_CODE_BYTES_MAX};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::body::Body;
use crate::dispatch::Call;
use crate::reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountSettings {
    account_limit: AccountLimit,
    account_usage: AccountUsage,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountLimit {
    total_code_size: u64,
    code_size_unzipped: u64,
    code_size_zipped: usize,
    concurrent_executions: u32,
    unreserved_concurrent_executions: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountUsage {
    total_code_size: u64,
    function_count: u64,
}

/// `GetAccountSettings`.
pub fn get(call: &Call<'_>) -> Response<Body> {
    let usage = call.node.functions.account_usage(&call.caller());
    let shown = AccountSettings {
        account_limit: AccountLimit {
            total_code_size: CODE_STORAGE_BYTES_MAX,
            code_size_unzipped: UNZIPPED_CODE_BYTES_MAX,
            code_size_zipped: ZIPPED_CODE_BYTES_MAX,
            concurrent_executions: usage.concurrency_max,
            unreserved_concurrent_executions: usage.unreserved_concurrency,
        },
        account_usage: AccountUsage {
            total_code_size: usage.code_bytes,
            function_count: usage.functions,
        },
    };
    reply::json(StatusCode::OK, &shown)
}

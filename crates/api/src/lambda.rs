//! Lambda's API: one file a resource, each with the resource's wire types and operations.

mod absent;
mod account;
mod alias;
mod code;
mod concurrency;
mod configuration;
mod destination;
mod durable;
mod event_invoke;
mod features;
mod function;
mod invoke;
mod kept;
mod layer;
mod layer_policy;
mod link;
mod mapping;
mod policy;
mod provisioned;
pub mod read;
mod stored;
mod tag;
mod url;
mod version;

use bowline_functions::model::events::PutMode;
use bytes::Bytes;
use http::Response;

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::route::Operation;

pub use durable::GuestWire;
pub use invoke::invoke;

/// Runs any operation but Invoke, which has its own way for speed.
pub async fn manage(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, ApiError> {
    match call.route.operation {
        Operation::CreateFunction => function::create(call, &body).await,
        Operation::GetFunction => function::get(call),
        Operation::GetFunctionConfiguration => function::get_configuration(call),
        Operation::ListFunctions => function::list(call),
        Operation::UpdateFunctionCode => function::update_code(call, &body).await,
        Operation::UpdateFunctionConfiguration => function::update_configuration(call, &body).await,
        Operation::DeleteFunction => function::delete(call).await,
        Operation::PublishVersion => version::publish(call, &body).await,
        Operation::ListVersionsByFunction => version::list(call),
        Operation::CreateAlias => alias::create(call, &body).await,
        Operation::GetAlias => alias::get(call),
        Operation::ListAliases => alias::list(call),
        Operation::UpdateAlias => alias::update(call, &body).await,
        Operation::DeleteAlias => alias::delete(call).await,
        Operation::ListTags => tag::list(call),
        Operation::TagResource => tag::add(call, &body).await,
        Operation::UntagResource => tag::remove(call).await,
        Operation::GetAccountSettings => Ok(account::get(call)),
        Operation::PutFunctionConcurrency => concurrency::put(call, &body).await,
        Operation::GetFunctionConcurrency => concurrency::get(call),
        Operation::InvokeWithResponseStream => invoke::streaming::invoke(call, body).await,
        Operation::InvokeAsync => invoke::invoke_async(call, body).await,
        Operation::PutFunctionEventInvokeConfig => event_invoke::put(call, &body, PutMode::Replace).await,
        Operation::UpdateFunctionEventInvokeConfig => event_invoke::put(call, &body, PutMode::Merge).await,
        Operation::GetFunctionEventInvokeConfig => event_invoke::get(call),
        Operation::DeleteFunctionEventInvokeConfig => event_invoke::delete(call).await,
        Operation::ListFunctionEventInvokeConfigs => event_invoke::list(call),
        Operation::CreateEventSourceMapping => mapping::create(call, &body).await,
        Operation::GetEventSourceMapping => mapping::get(call),
        Operation::UpdateEventSourceMapping => mapping::update(call, &body).await,
        Operation::DeleteEventSourceMapping => mapping::delete(call).await,
        Operation::ListEventSourceMappings => mapping::list(call),
        Operation::AddPermission => policy::add(call, &body).await,
        Operation::GetPolicy => policy::get(call),
        Operation::RemovePermission => policy::remove(call).await,
        Operation::GetResourcePolicy => policy::get_document(call),
        Operation::PutResourcePolicy => policy::put_document(call, &body).await,
        Operation::DeleteResourcePolicy => policy::delete_document(call).await,
        Operation::DeleteFunctionConcurrency => concurrency::delete(call).await,
        Operation::PutProvisionedConcurrencyConfig => provisioned::put(call, &body).await,
        Operation::GetProvisionedConcurrencyConfig => provisioned::get(call),
        Operation::DeleteProvisionedConcurrencyConfig => provisioned::delete(call).await,
        Operation::ListProvisionedConcurrencyConfigs => provisioned::list(call),
        Operation::PutRuntimeManagementConfig => kept::put_runtime_management(call, &body).await,
        Operation::GetRuntimeManagementConfig => kept::runtime_management(call),
        Operation::PutFunctionRecursionConfig => kept::put_recursion(call, &body).await,
        Operation::GetFunctionRecursionConfig => kept::recursion(call),
        Operation::CreateFunctionUrlConfig => url::create(call, &body).await,
        Operation::GetFunctionUrlConfig => url::get(call),
        Operation::UpdateFunctionUrlConfig => url::update(call, &body).await,
        Operation::DeleteFunctionUrlConfig => url::delete(call).await,
        Operation::ListFunctionUrlConfigs => url::list(call),
        Operation::PublishLayerVersion => layer::publish(call, &body).await,
        Operation::GetLayerVersion => layer::get(call).await,
        Operation::GetLayerVersionByArn => layer::get_by_arn(call).await,
        Operation::ListLayers => layer::list(call),
        Operation::ListLayerVersions => layer::list_versions(call),
        Operation::DeleteLayerVersion => layer::delete(call).await,
        Operation::AddLayerVersionPermission => layer_policy::add(call, &body).await,
        Operation::GetLayerVersionPolicy => layer_policy::get(call).await,
        Operation::RemoveLayerVersionPermission => layer_policy::remove(call).await,
        _ => match durable::answer(call, &body).await {
            Some(answer) => answer,
            None => absent::answer(call),
        },
    }
}

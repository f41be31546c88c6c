//! The service's own words for what it refuses.

use bowline_foundation::limits::UNRESERVED_CONCURRENCY_MIN;

use crate::error::Error;
use crate::name::FunctionName;
use crate::package::PackageError;
use crate::policy::POLICY_BYTES_MAX;

pub(crate) fn not_found(arn: &str) -> Error {
    Error::NotFound(format!("Function not found: {arn}"))
}

pub(super) fn alias_not_found(arn: &str) -> Error {
    Error::NotFound(format!("Cannot find alias arn: {arn}"))
}

pub(super) fn exists(name: &FunctionName) -> Error {
    Error::Conflict(format!("Function already exist: {name}"))
}

pub(super) fn alias_exists(arn: &str) -> Error {
    Error::Conflict(format!("Alias already exists: {arn}"))
}

pub(super) fn in_progress(arn: &str) -> Error {
    Error::Conflict(format!(
        "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
    ))
}

pub(crate) fn in_state(state: &str) -> Error {
    Error::Conflict(format!(
        "The operation cannot be performed at this time. The function is currently in the following state: {state}"
    ))
}

pub(super) fn stale_revision() -> Error {
    Error::PreconditionFailed(
        "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to \
         retrieve the latest Revision Id"
            .to_owned(),
    )
}

pub(super) fn stale_layer_policy() -> Error {
    Error::PreconditionFailed(
        "The RevisionId provided does not match the latest RevisionId. Call the GetLayerPolicy API to retrieve the latest \
         RevisionId for your resource."
            .to_owned(),
    )
}

pub(super) fn no_event_invoke(arn: &str) -> Error {
    Error::NotFound(format!("The function {arn} doesn't have an EventInvokeConfig"))
}

pub(super) fn no_statement(sid: &str) -> Error {
    Error::NotFound(format!("Statement {sid} is not found in resource policy."))
}

pub(super) fn statement_exists(sid: &str) -> Error {
    Error::Conflict(format!(
        "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing \
         statement."
    ))
}

pub(super) fn policy_too_long(bytes: usize) -> Error {
    Error::PolicyLengthExceeded(format!(
        "The final policy size ({bytes}) is bigger than the limit ({POLICY_BYTES_MAX})."
    ))
}

/// `who` is the ARN of the caller, or what it is called if it has none.
pub(super) fn not_allowed(who: &str, action: &str, arn: &str) -> Error {
    Error::AccessDenied(format!(
        "User: {who} is not authorized to perform: lambda:{action} on resource: {arn} because no statement of its \
         resource policy allows it"
    ))
}

pub(super) fn no_policy() -> Error {
    Error::NotFound("No policy is associated with the given resource.".to_owned())
}

pub(crate) fn no_resource() -> Error {
    Error::NotFound("The resource you requested does not exist.".to_owned())
}

pub(super) fn mapping_exists(source: &str, function: &str, id: &str) -> Error {
    Error::Conflict(format!(
        "The event source arn (\" {source} \") and function (\" {function} \") provided mapping already exists. Please \
         update or delete the existing mapping with UUID {id}"
    ))
}

/// The function of a new mapping.
pub(super) fn no_function() -> Error {
    Error::InvalidParameter("Function does not exist".to_owned())
}

/// The function of a URL, which has words of its own for it.
pub(super) fn no_function_of_url() -> Error {
    Error::NotFound("Function does not exist".to_owned())
}

pub(super) fn url_exists(arn: &str) -> Error {
    Error::Conflict(format!(
        "Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig exists for \
         this Lambda function"
    ))
}

pub(crate) fn no_streams() -> Error {
    Error::InvalidParameter("Events cannot be kept on this node: it has no streams.".to_owned())
}

pub(super) fn latest_only() -> Error {
    Error::InvalidParameter("This operation is permitted on the $LATEST version only.".to_owned())
}

pub(super) fn reserved_too_much() -> Error {
    Error::InvalidParameter(format!(
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below \
         its minimum value of [{UNRESERVED_CONCURRENCY_MIN}]."
    ))
}

pub(super) fn reserved_below_provisioned(wanted: u32, provisioned: u32) -> Error {
    Error::InvalidParameter(format!(
        "ReservedConcurrentExecutions {wanted} should not be lower than function's total provisioned concurrency \
         [{provisioned}]."
    ))
}

pub(super) fn unpublished() -> Error {
    Error::InvalidParameter(
        "Provisioned Concurrency Configs cannot be applied to unpublished function versions.".to_owned(),
    )
}

pub(super) fn no_provisioned() -> Error {
    Error::ProvisionedNotFound("No Provisioned Concurrency Config found for this function".to_owned())
}

/// A package that is refused at once.
pub(super) fn package(error: &PackageError) -> Error {
    let text = match error {
        PackageError::Empty => "Uploaded file must be a non-empty zip".to_owned(),
        PackageError::TooLarge { max, .. } => format!("Zipped size must be smaller than {max} bytes"),
        PackageError::UnzippedTooLarge { max } => format!("Unzipped size must be smaller than {max} bytes"),
        PackageError::NotAZip(_) | PackageError::Damaged(..) => {
            "Could not unzip uploaded file. Please check your file, then try to upload again.".to_owned()
        }
        other => format!("Could not unzip uploaded file: {other}"),
    };
    Error::InvalidParameter(text)
}

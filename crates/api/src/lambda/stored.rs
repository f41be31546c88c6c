//! Packages that lie in a bucket.

use bowline_aws::CallError;
use bowline_aws::s3::ObjectRef;
use bytes::Bytes;

use crate::dispatch::Node;
use crate::error::{ApiError, Exception};

/// Largest package: a zip from a bucket may be as large as what it unpacks to.
const PACKAGE_BYTES_MAX: usize = 262_144_000;

/// The package at a place in the configured object service.
pub async fn fetch(node: &Node, object: ObjectRef<'_>) -> Result<Bytes, ApiError> {
    let Some(objects) = &node.objects else {
        return Err(ApiError::invalid(
            "No S3 endpoint is configured on this node: start it with --s3-endpoint http://HOST:PORT, or send the \
             deployment package as `ZipFile`.",
        ));
    };
    objects.get(object, PACKAGE_BYTES_MAX).await.map_err(refused)
}

fn refused(error: CallError) -> ApiError {
    match error {
        CallError::Refused(refusal) => ApiError::invalid(format!(
            "Error occurred while GetObject. S3 Error Code: {}. S3 Error Message: {}",
            refusal.code, refusal.message
        )),
        CallError::TooLarge { bytes_max } => ApiError::invalid(format!(
            "The object must be smaller than {bytes_max} bytes to be a deployment package."
        )),
        error => ApiError::new(
            Exception::InvalidParameterValue,
            format!("Error occurred while GetObject: {error}"),
        ),
    }
}

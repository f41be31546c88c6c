//! Where a function's code comes from in a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_aws::s3::ObjectRef;
use bowline_functions::model::{Architecture, Code};
use bytes::Bytes;
use serde::Deserialize;

use super::read::{Text, invalid};
use crate::dispatch::Node;
use crate::error::{ApiError, Exception};

/// `FunctionCode`, and the same members of `UpdateFunctionCode`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CodeSource<'a> {
    #[serde(borrow)]
    zip_file: Option<Text<'a>>,
    s3_bucket: Option<String>,
    s3_key: Option<String>,
    s3_object_version: Option<String>,
    image_uri: Option<String>,
}

impl CodeSource<'_> {
    /// An image's name, or a package without its bytes.
    pub fn unfetched(&self) -> Result<Code, ApiError> {
        let is_package = self.zip_file.is_some() || self.is_stored();
        match &self.image_uri {
            Some(_) if is_package => Err(ApiError::invalid(
                "Please do not provide other FunctionCode parameters when providing an ImageUri.",
            )),
            Some(uri) => Ok(Code::Image(uri.clone())),
            None if is_package => Ok(Code::Package(Bytes::new())),
            None => Err(ApiError::invalid("Please provide a source for function code.")),
        }
    }

    /// The package, fetched if it lies in a bucket, or the image's name.
    pub async fn code(&self, node: &Node) -> Result<Code, ApiError> {
        match self.unfetched()? {
            Code::Package(_) => self.package(node).await.map(Code::Package),
            image @ Code::Image(_) => Ok(image),
        }
    }

    fn is_stored(&self) -> bool {
        self.s3_bucket.is_some() || self.s3_key.is_some()
    }

    async fn package(&self, node: &Node) -> Result<Bytes, ApiError> {
        if self.is_stored() {
            return self.fetch(node).await;
        }
        match &self.zip_file {
            Some(zip) => decode_zip(zip),
            None => Err(ApiError::invalid("Please provide a source for function code.")),
        }
    }

    async fn fetch(&self, node: &Node) -> Result<Bytes, ApiError> {
        if self.zip_file.is_some() {
            return Err(ApiError::invalid(
                "Please do not provide other FunctionCode parameters when providing a ZipFile.",
            ));
        }
        let (Some(bucket), Some(key)) = (&self.s3_bucket, &self.s3_key) else {
            return Err(ApiError::invalid("S3Bucket and S3Key are needed together."));
        };
        let version = self.s3_object_version.as_deref();
        super::stored::fetch(node, ObjectRef { bucket, key, version }).await
    }
}

/// The bytes of a `ZipFile`.
pub fn decode_zip(Text(encoded): &Text<'_>) -> Result<Bytes, ApiError> {
    let decoded = STANDARD.decode(encoded.as_bytes());
    decoded
        .map(Bytes::from)
        .map_err(|error| ApiError::new(Exception::Serialization, format!("`ZipFile` is not base64: {error}")))
}

/// `Architectures`: a list that holds exactly one.
pub fn architecture(list: Option<&[String]>) -> Result<Option<Architecture>, ApiError> {
    match list {
        None => Ok(None),
        Some([one]) if one == "x86_64" => Ok(Some(Architecture::X86_64)),
        Some([one]) if one == "arm64" => Ok(Some(Architecture::Arm64)),
        Some([one]) => Err(invalid(
            format_args!("[{one}]"),
            "architectures",
            "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64]]",
        )),
        Some(several) => Err(invalid(
            format_args!("[{}]", several.join(", ")),
            "architectures",
            "Member must have length equal to 1",
        )),
    }
}

//! Container images: `/v1/images/{name}`, which Lambda leaves to a registry.

use std::time::Duration;

use bowline_foundation::digest::{Digest, Hasher};
use bowline_foundation::limits::IMAGE_UPLOAD_BYTES_MAX;
use bowline_foundation::units::Mebibytes;
use bowline_functions::model::Caller;
use bowline_functions::model::image::{PushImage, StoredImage};
use bowline_functions::name::image::{ImageName, ImageRef, Tag, Which};
use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::auth::sigv4::CONTENT_HASH;
use crate::body::{self, Body};
use crate::dispatch::{Admitted, Call, Node, uncollected};
use crate::error::{ApiError, Exception};
use crate::lambda::read;
use crate::reply;
use crate::route::Operation;

/// How long a client may send nothing of its archive.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long an archive may take in all, besides one second for each mebibyte of it.
const TRANSFER_MAX: Duration = Duration::from_secs(60);
/// How long the rest of a refused archive is read.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// An image as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    /// What a function's code names it by.
    image_uri: String,
    /// The same image whatever the tag is given to.
    resolved_image_uri: String,
    image_digest: String,
    /// What its layers add up to as they are kept.
    image_size: u64,
    created_date: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    images: Vec<Image>,
}

/// `PUT /v1/images/{name}?tag=TAG`: the body is a tar archive, an OCI image layout or what `docker save` writes. It goes
/// to a file piece by piece, never into memory whole, and not before everything else has been judged.
pub async fn push(node: &Node, asked: Admitted<'_>, mut body: Incoming) -> Result<Response<Body>, ApiError> {
    let waits = asked.head.headers.contains_key(EXPECT);
    let bytes = body.size_hint().exact();
    let (mut upload, caller) = match begin(node, asked, bytes).await {
        Ok(begun) => begun,
        Err(error) => {
            if !waits {
                drain(body).await;
            }
            return Err(error);
        }
    };
    let mut file = File::from_std(upload.push.staging.archive);
    if let Err(error) = receive_in_time(&mut body, &mut file, (upload.digest, bytes)).await {
        drain(body).await;
        return Err(error);
    }
    upload.push.staging.archive = file.into_std().await;
    let image = node.functions.push_image(&caller, upload.push).await?;
    Ok(reply::json(StatusCode::CREATED, &Image::from(image)))
}

/// An upload whose archive is to come.
struct Upload {
    push: PushImage,
    /// What the archive must have; nothing is said of it where nothing is signed.
    digest: Option<Digest>,
}

/// Judges all but the archive, the signature over its digest included, and waits for its turn.
async fn begin(node: &Node, asked: Admitted<'_>, bytes: Option<u64>) -> Result<(Upload, Caller), ApiError> {
    let Admitted {
        head,
        route,
        request_id,
        proof,
    } = asked;
    let name: ImageName = route.resource.parse()?;
    let tag = tag(&route.query.get("tag").unwrap_or_default())?;
    if bytes.is_some_and(|bytes| bytes > IMAGE_UPLOAD_BYTES_MAX) {
        return Err(too_large());
    }
    let digest = match proof.is_signed() {
        true => Some(signed_digest(head)?),
        false => None,
    };
    let payload = digest.map(|digest| digest.to_string()).unwrap_or_default();
    let identity = proof.finish_hashed(head, &payload)?;
    let caller = Call::new(node, head, route, request_id, identity).caller();
    let staging = node.functions.stage_image(&caller, &name).await?;
    let push = PushImage { name, tag, staging };
    Ok((Upload { push, digest }, caller))
}

/// The digest of the body that the request's signature is over.
fn signed_digest(head: &Parts) -> Result<Digest, ApiError> {
    let said = head.headers.get(CONTENT_HASH).and_then(|value| value.to_str().ok());
    said.and_then(|text| text.parse().ok()).ok_or_else(|| {
        ApiError::new(
            Exception::InvalidSignature,
            format!(
                "An image's archive is signed by its SHA-256 digest, in hexadecimal, in the header `{CONTENT_HASH}`."
            ),
        )
    })
}

/// The same as [`receive`], but not for ever: others wait for the turn.
async fn receive_in_time(
    body: &mut Incoming,
    file: &mut File,
    (digest, bytes): (Option<Digest>, Option<u64>),
) -> Result<(), ApiError> {
    let bytes = bytes.unwrap_or(IMAGE_UPLOAD_BYTES_MAX);
    let limit = transfer_time(bytes);
    timeout(limit, receive(body, file, digest)).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Exception::InvalidRequestContent,
            format!(
                "The image's archive did not come within {} s, which is the limit for one of {bytes} bytes.",
                limit.as_secs()
            ),
        ))
    })
}

/// How long an archive of so many bytes may take.
fn transfer_time(bytes: u64) -> Duration {
    TRANSFER_MAX + Duration::from_secs(bytes.div_ceil(Mebibytes(1).bytes()))
}

/// Writes the body to the file, and compares its digest.
async fn receive(body: &mut Incoming, file: &mut File, expected: Option<Digest>) -> Result<(), ApiError> {
    let mut hash = expected.map(|_| Hasher::default());
    let mut bytes = 0;
    while let Some(piece) = next(body).await? {
        bytes += piece.len() as u64;
        if bytes > IMAGE_UPLOAD_BYTES_MAX {
            return Err(too_large());
        }
        if let Some(hash) = &mut hash {
            hash.update(&piece);
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if hash.map(Hasher::finish) != expected {
        return Err(ApiError::new(
            Exception::InvalidSignature,
            format!("The digest in `{CONTENT_HASH}` is not the one of the body."),
        ));
    }
    Ok(())
}

/// Lets a client read why it was refused, if it does not take long to get there.
async fn drain(body: Incoming) {
    let _ = timeout(DRAIN_MAX, body::drain(body)).await;
}

/// The next piece. Whoever sends none for long gives its turn up.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    match timeout(SILENCE_MAX, body::next(body)).await {
        Ok(piece) => piece.map_err(|error| uncollected(Operation::PushImage, error)),
        Err(_) => Err(ApiError::new(
            Exception::InvalidRequestContent,
            format!("Nothing of the image's archive came for {} s.", SILENCE_MAX.as_secs()),
        )),
    }
}

/// `GET /v1/images`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let page = read::page(call.route.query)?;
    let found = call.node.functions.list_images(&call.caller(), &page)?;
    let shown = ListResponse {
        next_marker: found.next_marker,
        images: found.items.into_iter().map(Image::from).collect(),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `DELETE /v1/images/{name}?tag=TAG`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let name = call.route.resource.parse()?;
    let tag = tag(&call.route.query.get("tag").unwrap_or_default())?;
    call.node.functions.delete_image(&call.caller(), &name, &tag).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn tag(text: &str) -> Result<Tag, ApiError> {
    match text {
        "" => Ok(Tag::default()),
        text => Ok(text.parse()?),
    }
}

fn too_large() -> ApiError {
    ApiError::new(
        Exception::RequestTooLarge,
        format!("The image's archive must have at most {IMAGE_UPLOAD_BYTES_MAX} bytes."),
    )
}

fn failed(error: std::io::Error) -> ApiError {
    ApiError::new(Exception::Service, format!("the image cannot be kept: {error}"))
}

impl From<StoredImage> for Image {
    fn from(image: StoredImage) -> Self {
        let digest = image.parts.digest;
        let uri = ImageRef {
            host: None,
            name: image.name,
            which: Which::Tag(image.tag),
        };
        Self {
            resolved_image_uri: uri.at(digest).to_string(),
            image_uri: uri.to_string(),
            image_digest: format!("sha256:{digest}"),
            image_size: image.parts.bytes,
            created_date: image.created.to_lambda_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_may_take_a_second_for_each_mebibyte() {
        let seconds = [0, 1, 1024 * 1024, IMAGE_UPLOAD_BYTES_MAX].map(|bytes| transfer_time(bytes).as_secs());
        assert_eq!(seconds, [60, 61, 61, 60 + 10 * 1024]);
    }
}

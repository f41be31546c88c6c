//! Container images: `/v1/images/{name}`, which Lambda leaves to a registry.

use bowline_foundation::digest::Hasher;
use bowline_foundation::limits::IMAGE_UPLOAD_BYTES_MAX;
use bowline_functions::model::image::{PushImage, StoredImage};
use bowline_functions::name::image::{ImageName, ImageRef, Tag, Which};
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use crate::body::{self, Body};
use crate::dispatch::{Asked, Call, Node};
use crate::error::{ApiError, Exception};
use crate::lambda::read;
use crate::{origin, reply};

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
/// to a file piece by piece, never into memory whole.
pub async fn push(node: &Node, asked: Asked<'_>, body: Incoming) -> Result<Response<Body>, ApiError> {
    let Asked {
        head,
        route,
        request_id,
        proof,
    } = asked;
    origin::check(&head.headers)?;
    let proof = proof?;
    let name: ImageName = route.resource.parse()?;
    let tag = tag(&route.query.get("tag").unwrap_or_default())?;
    let expected = body.size_hint().exact();
    if expected.is_some_and(|bytes| bytes > IMAGE_UPLOAD_BYTES_MAX) {
        return Err(too_large());
    }
    let mut file = File::from_std(node.functions.image_file().await?);
    let hash = receive(body, &mut file, proof.is_signed()).await?;
    let identity = proof.finish_hashed(head, &hash)?;
    let call = Call::new(node, head, route, request_id, identity);
    let push = PushImage {
        name,
        tag,
        archive: file.into_std().await,
    };
    let image = node.functions.push_image(&call.caller(), push).await?;
    Ok(reply::json(StatusCode::CREATED, &Image::from(image)))
}

/// Writes the body to the file; gives its digest if that is wanted.
async fn receive(mut body: Incoming, file: &mut File, is_signed: bool) -> Result<String, ApiError> {
    let mut hash = is_signed.then(Hasher::default);
    let mut bytes = 0;
    while let Some(piece) = body::next(&mut body).await.map_err(broken)? {
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
    Ok(hash.map(|hash| hash.finish().to_string()).unwrap_or_default())
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
        format!("The image's archive must be smaller than {IMAGE_UPLOAD_BYTES_MAX} bytes."),
    )
}

fn broken(error: body::CollectError) -> ApiError {
    ApiError::new(Exception::InvalidRequestContent, error.to_string())
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

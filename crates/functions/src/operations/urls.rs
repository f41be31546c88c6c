//! CreateFunctionUrlConfig and its siblings.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;

use super::attach::{edit, find};
use super::{list, refusals, validate};
use crate::error::Error;
use crate::model::attached::{Cors, PutUrl, Url, UrlConfig, UrlNeeds};
use crate::model::{Caller, Page, PageRequest};
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::FunctionEntry;
use crate::service::Inner;

const ID_CHARS: usize = 32;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Limits of a CORS configuration.
const HEADERS_MAX: usize = 100;
const HEADER_CHARS_MAX: usize = 1024;
const METHODS_MAX: usize = 6;
const METHOD_CHARS_MAX: usize = 6;
const ORIGINS_MAX: usize = 100;
const ORIGIN_CHARS_MAX: usize = 253;
const MAX_AGE_SECONDS_MAX: u32 = 86_400;

/// `auth` is required here; the wire has seen to that.
pub(crate) async fn create(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: PutUrl,
) -> Result<UrlConfig, Error> {
    check_qualifier(&target)?;
    let cors = cors(&request)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = existing(&inner, &target)?;
    if found(&old, &target).is_some() {
        return Err(refusals::url_exists(&inner.target_arn(&target)));
    }
    let auth = request
        .auth
        .ok_or_else(|| Error::InvalidParameter("AuthType is required.".to_owned()))?;
    let now = inner.clock.now();
    let url = Arc::new(Url {
        id: identifier(&inner.entropy),
        auth,
        mode: request.mode.unwrap_or_default(),
        cors: cors.flatten(),
        needs: UrlNeeds::UrlAndFunction,
        created: now,
        last_modified: now,
    });
    let attached = url.clone();
    edit(&inner, (&caller, "CreateFunctionUrlConfig"), &old, &target, |to| {
        to.url = Some(attached);
    })
    .await?;
    tracing::info!(request_id = caller.request_id, function = %target.name, url = url.id, "function URL created");
    Ok(UrlConfig { target, url })
}

pub(crate) fn get(inner: &Inner, target: &FunctionRef) -> Result<UrlConfig, Error> {
    check_qualifier(target)?;
    let entry = inner.entry(target).map_err(|_| refusals::no_resource())?;
    let url = found(&entry, target).ok_or_else(refusals::no_resource)?;
    Ok(UrlConfig {
        target: target.clone(),
        url: url.clone(),
    })
}

pub(crate) async fn update(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: PutUrl,
) -> Result<UrlConfig, Error> {
    check_qualifier(&target)?;
    let cors = cors(&request)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target).map_err(|_| refusals::no_resource())?;
    let mut url = Url::clone(found(&old, &target).ok_or_else(refusals::no_resource)?);
    url.auth = request.auth.unwrap_or(url.auth);
    url.mode = request.mode.unwrap_or(url.mode);
    url.cors = cors.unwrap_or(url.cors);
    url.last_modified = inner.clock.now();
    let url = Arc::new(url);
    let attached = url.clone();
    edit(&inner, (&caller, "UpdateFunctionUrlConfig"), &old, &target, |to| {
        to.url = Some(attached);
    })
    .await?;
    Ok(UrlConfig { target, url })
}

pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, target: FunctionRef) -> Result<(), Error> {
    check_qualifier(&target)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target).map_err(|_| refusals::no_resource())?;
    found(&old, &target).ok_or_else(refusals::no_resource)?;
    edit(&inner, (&caller, "DeleteFunctionUrlConfig"), &old, &target, |to| {
        to.url = None;
    })
    .await
}

pub(crate) fn list(inner: &Inner, target: &FunctionRef, page: &PageRequest) -> Result<Page<UrlConfig>, Error> {
    let entry = existing(inner, target)?;
    let urls = entry.attached.iter().filter_map(|(key, found)| {
        let url = found.attached.url.clone()?;
        let target = target.qualified(qualifier(key));
        Some((key, UrlConfig { target, url }))
    });
    list::attached(urls, page)
}

/// The URL with an identifier, if there is one.
pub(crate) fn by_id(inner: &Inner, id: &str) -> Option<UrlConfig> {
    let owner = inner.registry.snapshot.url_owner(id)?;
    let entry = inner.registry.snapshot.get(&owner.account, &owner.name)?;
    let url = entry.attached.get(&owner.qualifier)?.attached.url.clone()?;
    (url.id == id).then(|| UrlConfig {
        target: FunctionRef {
            qualifier: qualifier(&owner.qualifier),
            account: owner.account,
            name: owner.name,
        },
        url,
    })
}

/// A URL leads to an alias, or to `$LATEST` without a qualifier.
fn qualifier(key: &str) -> Option<Qualifier> {
    let qualifier = key.parse().ok();
    qualifier.filter(|qualifier| *qualifier != Qualifier::Version(Version::Latest))
}

fn found<'a>(entry: &'a FunctionEntry, target: &FunctionRef) -> Option<&'a Arc<Url>> {
    find(entry, target)?.url.as_ref()
}

/// The function, which must have the alias.
fn existing(inner: &Inner, target: &FunctionRef) -> Result<Arc<FunctionEntry>, Error> {
    let entry = inner.entry(target).map_err(|_| refusals::no_function_of_url())?;
    if target.qualifier.is_some() && inner.target(&entry, target).is_err() {
        return Err(refusals::no_function_of_url());
    }
    Ok(entry)
}

fn check_qualifier(target: &FunctionRef) -> Result<(), Error> {
    match &target.qualifier {
        Some(Qualifier::Version(version)) => Err(Error::Validation(format!(
            "1 validation error detected: Value '{version}' at 'qualifier' failed to satisfy constraint: Member must \
             satisfy regular expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)"
        ))),
        _ => Ok(()),
    }
}

fn identifier(entropy: &Entropy) -> String {
    let mut bytes = [0; ID_CHARS];
    entropy.fill(&mut bytes);
    let chars = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    chars.collect()
}

/// What a request says about CORS: nothing, that there is none, or a configuration within its limits.
fn cors(request: &PutUrl) -> Result<Option<Option<Cors>>, Error> {
    let Some(mut cors) = request.cors.clone() else {
        return Ok(None);
    };
    if let Some(seconds) = request.max_age {
        cors.max_age = Some(validate::within("cors.maxAge", seconds, 0, MAX_AGE_SECONDS_MAX)?);
    }
    check_list("cors.allowHeaders", &cors.allow_headers, HEADERS_MAX, HEADER_CHARS_MAX)?;
    check_list(
        "cors.exposeHeaders",
        &cors.expose_headers,
        HEADERS_MAX,
        HEADER_CHARS_MAX,
    )?;
    check_list("cors.allowMethods", &cors.allow_methods, METHODS_MAX, METHOD_CHARS_MAX)?;
    check_list("cors.allowOrigins", &cors.allow_origins, ORIGINS_MAX, ORIGIN_CHARS_MAX)?;
    check_methods(&cors)?;
    if cors.allow_origins.iter().flatten().any(String::is_empty) {
        return Err(Error::InvalidParameter("A CORS origin must not be empty.".to_owned()));
    }
    Ok(Some(Some(cors).filter(|cors| *cors != Cors::default())))
}

fn check_methods(cors: &Cors) -> Result<(), Error> {
    const METHODS: [&str; 7] = ["GET", "PUT", "HEAD", "POST", "PATCH", "DELETE", "*"];
    let unknown = cors
        .allow_methods
        .iter()
        .flatten()
        .find(|method| !METHODS.contains(&method.as_str()));
    unknown.map_or(Ok(()), |method| {
        Err(Error::InvalidParameter(format!(
            "`{method}` is not a method that a CORS configuration can allow; known are {}.",
            METHODS.join(", ")
        )))
    })
}

/// The texts go into headers, so that nothing but visible ASCII may stand in them.
fn check_list(member: &str, list: &Option<Vec<String>>, items_max: usize, chars_max: usize) -> Result<(), Error> {
    let refused = |constraint: String| {
        Error::Validation(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}"
        ))
    };
    let Some(list) = list else { return Ok(()) };
    if list.len() > items_max {
        return Err(refused(format!(
            "Member must have length less than or equal to {items_max}"
        )));
    }
    if list.iter().any(|item| item.chars().count() > chars_max) {
        return Err(refused(format!(
            "Member must satisfy constraint: [Member must have length less than or equal to {chars_max}]"
        )));
    }
    if list
        .iter()
        .any(|item| !item.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(refused("Member must be of visible ASCII characters".to_owned()));
    }
    Ok(())
}

//! The lists, page by page. A marker is opaque: it names the last item that was given.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::aliases::points_at;
use crate::error::Error;
use crate::model::events::{EventInvokeConfig, Mapping};
use crate::model::image::StoredImage;
use crate::model::layers::LayerVersion;
use crate::model::{Alias, Configuration, Page, PageRequest};
use crate::name::Version;
use crate::registry::FunctionEntry;

const ITEMS_MAX: u32 = 50;
const ITEMS_ASKED_MAX: u32 = 10_000;

/// Functions of an account by name; with `all_versions`, each with all its versions.
pub(crate) fn functions(
    functions: &[Arc<FunctionEntry>],
    all_versions: bool,
    page: &PageRequest,
) -> Result<Page<Configuration>, Error> {
    let after = marker(page)?;
    let after = match &after {
        None => None,
        Some(text) => Some(read_position(text)?),
    };
    let versions = functions.iter().flat_map(|entry| {
        let published = if all_versions {
            Some(entry.versions.values())
        } else {
            None
        };
        let published = published.into_iter().flatten().map(|version| &version.configuration);
        std::iter::once(&entry.latest).chain(published)
    });
    let rest = versions.filter(|found| after.is_none_or(|after| position(found) > after));
    paged(rest, page, |last| {
        let (name, version) = position(last);
        format!("{name}:{version}")
    })
}

/// `$LATEST`, then oldest to newest.
pub(crate) fn versions(entry: &FunctionEntry, page: &PageRequest) -> Result<Page<Configuration>, Error> {
    let after = match marker(page)? {
        None => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| invalid_marker())?),
    };
    let latest = after.is_none().then_some(&entry.latest);
    let newer = after.map_or(Bound::Unbounded, Bound::Excluded);
    let published = entry.versions.range((newer, Bound::Unbounded));
    let rest = latest
        .into_iter()
        .chain(published.map(|(_, version)| &version.configuration));
    paged(rest, page, |last| position(last).1.to_string())
}

/// Aliases by name, of one version if it is given.
pub(crate) fn aliases(
    entry: &FunctionEntry,
    version: Option<Version>,
    page: &PageRequest,
) -> Result<Page<Alias>, Error> {
    let after = marker(page)?;
    let all = entry.aliases.values().map(|entry| &entry.alias);
    let all = all.filter(|alias| version.is_none_or(|version| points_at(alias, version)));
    let rest = all.filter(|alias| after.as_deref().is_none_or(|after| alias.name.as_str() > after));
    paged(rest, page, |last: &Alias| last.name.to_string())
}

/// How the events of a function's qualifiers are treated, by qualifier.
pub(crate) fn event_invokes(entry: &FunctionEntry, page: &PageRequest) -> Result<Page<EventInvokeConfig>, Error> {
    let after = marker(page)?;
    let all = entry.event_invokes.iter();
    let rest = all.filter(|(qualifier, _)| after.as_ref().is_none_or(|after| *qualifier > after));
    paged(
        rest.map(|(_, entry)| &entry.config),
        page,
        |last: &EventInvokeConfig| last.qualifier.to_string(),
    )
}

/// What a function has attached of one kind, by qualifier.
pub(crate) fn attached<'a, T>(
    all: impl Iterator<Item = (&'a String, T)>,
    page: &PageRequest,
) -> Result<Page<T>, Error> {
    let (after, limit) = (marker(page)?, limit(page)?);
    let mut found: Vec<_> = all
        .filter(|(qualifier, _)| after.as_ref().is_none_or(|after| *qualifier > after))
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    Ok(Page {
        next_marker: last.map(|(qualifier, _)| URL_SAFE_NO_PAD.encode(qualifier)),
        items: found.into_iter().map(|(_, item)| item).collect(),
    })
}

/// Mappings that come by identifier.
pub(crate) fn mappings<'a>(all: impl Iterator<Item = &'a Mapping>, page: &PageRequest) -> Result<Page<Mapping>, Error> {
    let after = marker(page)?;
    let rest = all.filter(|mapping| after.as_ref().is_none_or(|after| mapping.id > *after));
    paged(rest, page, |last: &Mapping| last.id.clone())
}

/// Where a configuration stands in the list: `$LATEST` is number 0.
fn position(configuration: &Configuration) -> (&str, u64) {
    let number = match configuration.version {
        Version::Latest => 0,
        Version::Number(number) => number,
    };
    (configuration.name.as_str(), number)
}

fn read_position(text: &str) -> Result<(&str, u64), Error> {
    let (name, number) = text.split_once(':').ok_or_else(invalid_marker)?;
    Ok((name, number.parse().map_err(|_| invalid_marker())?))
}

pub(super) fn marker(page: &PageRequest) -> Result<Option<String>, Error> {
    let Some(marker) = page.marker.as_deref().filter(|marker| !marker.is_empty()) else {
        return Ok(None);
    };
    let bytes = URL_SAFE_NO_PAD.decode(marker).map_err(|_| invalid_marker())?;
    String::from_utf8(bytes).map(Some).map_err(|_| invalid_marker())
}

pub(super) fn invalid_marker() -> Error {
    Error::InvalidParameter("Invalid pagination marker.".to_owned())
}

pub(super) fn paged<'a, R, T>(
    rest: impl Iterator<Item = &'a R>,
    page: &PageRequest,
    mark: impl Fn(&T) -> String,
) -> Result<Page<T>, Error>
where
    R: AsModel<T> + 'a,
    T: Clone + 'a,
{
    let limit = limit(page)?;
    let mut items: Vec<T> = rest.take(limit + 1).map(|item| item.model().clone()).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    Ok(Page {
        next_marker: last.map(|last| URL_SAFE_NO_PAD.encode(mark(last))),
        items,
    })
}

fn limit(page: &PageRequest) -> Result<usize, Error> {
    let asked = page.items_max.unwrap_or(ITEMS_MAX);
    if !(1..=ITEMS_ASKED_MAX).contains(&asked) {
        let (relation, limit) = if asked == 0 {
            ("greater", 1)
        } else {
            ("less", ITEMS_ASKED_MAX)
        };
        return Err(Error::Validation(format!(
            "1 validation error detected: Value '{asked}' at 'maxItems' failed to satisfy constraint: Member must have \
             value {relation} than or equal to {limit}"
        )));
    }
    Ok(asked.min(ITEMS_MAX) as usize)
}

/// What a list is made of: the model itself, or shared.
pub(super) trait AsModel<T> {
    fn model(&self) -> &T;
}

impl AsModel<Configuration> for Arc<Configuration> {
    fn model(&self) -> &Configuration {
        self
    }
}

impl AsModel<Alias> for Alias {
    fn model(&self) -> &Alias {
        self
    }
}

impl AsModel<EventInvokeConfig> for EventInvokeConfig {
    fn model(&self) -> &EventInvokeConfig {
        self
    }
}

impl AsModel<LayerVersion> for LayerVersion {
    fn model(&self) -> &LayerVersion {
        self
    }
}

impl AsModel<StoredImage> for StoredImage {
    fn model(&self) -> &StoredImage {
        self
    }
}

impl AsModel<Mapping> for Mapping {
    fn model(&self) -> &Mapping {
        self
    }
}

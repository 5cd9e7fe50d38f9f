//! Tag lists, with pagination.

use super::RegistryStore;
use crate::store::ImageSource;
use error::Error;
use error::text::Escaped;
use image_model::reference::is_tag;
use registry_client::{ResponseHead, Url, api_error};
use serde::Deserialize;
use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

/// Maximum size of a page in bytes; some registries return all tags in one page.
const PAGE_MAX: u64 = 16 << 20;
const PAGES_MAX: usize = 10_000;
/// Pages without a new tag; a list with more of them does not end.
pub const EMPTY_PAGES_MAX: usize = 2;
const TAGS_MAX: usize = 1_000_000;
/// Bytes of all tags together, which bounds the memory.
const BYTES_MAX: usize = 24 << 20;

/// The response of `tags/list`.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Returns all tags, sorted.
pub fn list(store: &RegistryStore) -> Result<Vec<String>, Error> {
    let action = format!("list the tags of \"{}\"", store.display_name());
    let wrong = |reason: String| Error::bad_input(&*action, reason);
    let mut tags = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut next = Some(first(store));
    let (mut bytes, mut empty_pages) = (0, 0);
    let end = Instant::now() + store.client.retry_policy().timeout;
    while let Some(url) = next {
        let is_endless = seen.len() >= PAGES_MAX || empty_pages >= EMPTY_PAGES_MAX;
        if is_endless || !seen.insert(url.unredacted()) {
            return Err(wrong(format!("the list did not end after {} pages", seen.len())));
        }
        if Instant::now() > end {
            let reason = format!("the list did not end in time, after {} pages", seen.len());
            return Err(Error::network(&*action, reason).hint("a longer time is set with --timeout"));
        }
        let (page, link) = read(store, &action, &url)?;
        let before = tags.len();
        for tag in page {
            bytes += tag.len();
            tags.insert(tag);
        }
        if tags.len() > TAGS_MAX || bytes > BYTES_MAX {
            let reason = format!("there are more than {TAGS_MAX} tags, or {} MiB of them", BYTES_MAX >> 20);
            return Err(wrong(reason));
        }
        empty_pages = if tags.len() == before { empty_pages + 1 } else { 0 };
        next = link;
    }
    Ok(tags.into_iter().collect())
}

/// Returns all tags, or `None` if there is more than one page.
pub fn first_page(store: &RegistryStore) -> Result<Option<Vec<String>>, Error> {
    let action = format!("list the tags of \"{}\"", store.display_name());
    let (tags, next) = read(store, &action, &first(store))?;
    Ok(next.is_none().then_some(tags))
}

fn first(store: &RegistryStore) -> Url {
    store.url("tags/list").with_query("n", "1000")
}

fn read(store: &RegistryStore, action: &str, url: &Url) -> Result<(Vec<String>, Option<Url>), Error> {
    let wrong = |reason: String| Error::bad_input(action, reason);
    let mut request = store.request(action, "GET", url.clone());
    request.headers.push(("Accept", "application/json".into()));
    let (head, body) = store.client.fetch(&request, PAGE_MAX)?;
    if head.status != 200 {
        return Err(api_error::from_head(action, &head, &body));
    }
    let page: Page = serde_json::from_slice(&body)
        .map_err(|e| wrong(format!("the response is not a list of tags: {e}")))?;
    let tags = page.tags.unwrap_or_default();
    // Tags become parts of URLs and of suggested commands.
    if let Some(tag) = tags.iter().find(|tag| !is_tag(tag)) {
        return Err(wrong(format!("the list contains an invalid tag, \"{}\"", Escaped(tag))));
    }
    Ok((tags, next_page(store, url, &head).map_err(wrong)?))
}

/// Returns the URL of the next page from the `Link` header, if there is one.
pub fn next_page(store: &RegistryStore, from: &Url, head: &ResponseHead) -> Result<Option<Url>, String> {
    let links = head.headers.get_all("link").iter().filter_map(|value| value.to_str().ok());
    links.flat_map(next_of).next().map(|link| follow(from, link, store)).transpose()
}

fn follow(from: &Url, link: &str, store: &RegistryStore) -> Result<Url, String> {
    let to = from.join(link).map_err(|reason| format!("the URL of the next page is invalid: {reason}"))?;
    // As with uploads: a registry behind a proxy that terminates TLS does not know its own scheme.
    let to = if from.is_tls() { to.with_tls() } else { to };
    if !to.same_origin(store.auth.registry()) {
        return Err(format!("the next page is on another host, {}", to.host_and_port()));
    }
    Ok(to)
}

/// Returns the target of `<...>; rel="next"` in a `Link` header (RFC 8288).
fn next_of(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let params = after.split('<').next().unwrap_or(after);
        let is_next = params.split([';', ',']).any(|param| {
            let (key, value) = param.split_once('=').unwrap_or((param, ""));
            key.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_target_of_the_link() {
        let check = |value: &str, meant: Option<&str>| assert_eq!(next_of(value), meant, "{value}");
        check("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b"));
        check("</x>; rel=next", Some("/x"));
        check("</first>; rel=\"first\", </x>; title=\"a\"; rel=\"last next\"", Some("/x"));
        check("</x>; rel=\"prev\"", None);
        check("</x>", None);
        check("</x", None);
        check("", None);
    }
}

//! Files that archives of the old form keep for Docker before 1.10: `ID/json` and `repositories`.

use image_model::manifest::{Config, DocumentError};
use image_model::raw_json::{JsonObject, Splice};

/// A layer's `json` whose label follows that of the image's config. Only keys that the old and the new config
/// say differently change.
pub fn relabel(json: &[u8], old: &Config, new: &Config) -> Result<Vec<u8>, DocumentError> {
    let object = JsonObject::parse(json)?;
    let (old, new) = (&old.platform, &new.platform);
    let said = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
    let keys = [
        ("architecture", said(&old.architecture), said(&new.architecture)),
        ("os", said(&old.os), said(&new.os)),
        ("variant", old.variant.clone(), new.variant.clone()),
    ];
    let mut splice = Splice::default();
    for (key, old, new) in keys {
        match new {
            _ if old == new => {}
            Some(value) => {
                let value = serde_json::to_string(&value).map_err(|e| DocumentError::Shape(e.to_string()))?;
                splice.set(json, &object, key, &value, &["architecture", "os"])?;
            }
            None => splice.remove(json, &object, key)?,
        }
    }
    Ok(splice.apply(json))
}

/// The layer id that `repositories` gives for a tag: `{"app":{"1":"ID"}}`.
pub fn layer_id(repositories: &[u8], repository: &str, tag: &str) -> Option<String> {
    let outer = JsonObject::parse(repositories).ok()?;
    let inner = outer.members.iter().find(|member| member.key == repository)?;
    let inner = JsonObject::parse_at(repositories, &inner.value_at, repository).ok()?;
    let id = inner.members.iter().find(|member| member.key == tag)?;
    serde_json::from_slice(&repositories[id.value_at.clone()]).ok()
}

/// `repositories` with this tag naming this layer. Names of repositories and tags are data: two that differ only
/// in case are two.
pub fn point(repositories: &[u8], repository: &str, tag: &str, id: &str) -> Result<Vec<u8>, DocumentError> {
    let text = |value: &str| serde_json::to_string(value).map_err(|e| DocumentError::Shape(e.to_string()));
    let outer = JsonObject::parse(repositories)?;
    outer.refuse_duplicates()?;
    let mut splice = Splice::default();
    let entry = format!("{}:{}", text(tag)?, text(id)?);
    let Some(inner) = outer.members.iter().find(|member| member.key == repository) else {
        append(&mut splice, &outer, &format!("{}:{{{entry}}}", text(repository)?));
        return Ok(splice.apply(repositories));
    };
    let inner = JsonObject::parse_at(repositories, &inner.value_at, repository)?;
    inner.refuse_duplicates()?;
    match inner.members.iter().find(|member| member.key == tag) {
        Some(old) => splice.replace(old.value_at.clone(), text(id)?),
        None => append(&mut splice, &inner, &entry),
    }
    Ok(splice.apply(repositories))
}

/// `repositories` without this tag, and without the repository if it has no other.
pub fn unpoint(repositories: &[u8], repository: &str, tag: &str) -> Result<Vec<u8>, DocumentError> {
    let outer = JsonObject::parse(repositories)?;
    outer.refuse_duplicates()?;
    let Some(at) = outer.members.iter().position(|member| member.key == repository) else {
        return Ok(repositories.to_vec());
    };
    let inner = JsonObject::parse_at(repositories, &outer.members[at].value_at, repository)?;
    inner.refuse_duplicates()?;
    let mut splice = Splice::default();
    match inner.members.iter().position(|member| member.key == tag) {
        Some(_) if inner.members.len() == 1 => remove(&mut splice, &outer, at),
        Some(tag) => remove(&mut splice, &inner, tag),
        None => {}
    }
    Ok(splice.apply(repositories))
}

/// Takes a member away with one comma.
fn remove(splice: &mut Splice, object: &JsonObject, at: usize) {
    let member = &object.members[at];
    let range = match (at.checked_sub(1).map(|i| &object.members[i]), object.members.get(at + 1)) {
        (Some(previous), _) => previous.value_at.end..member.value_at.end,
        (None, Some(next)) => member.key_at.start..next.key_at.start,
        (None, None) => member.key_at.start..member.value_at.end,
    };
    splice.replace(range, Vec::new());
}

fn append(splice: &mut Splice, object: &JsonObject, member: &str) {
    let (at, comma) = match object.members.last() {
        Some(last) => (last.value_at.end, ","),
        None => (object.at.start + 1, ""),
    };
    splice.replace(at..at, format!("{comma}{member}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_an_old_json_follows_the_config() {
        let check = |json: &str, new: &str, output: &str| {
            let old = Config::parse(br#"{"architecture":"amd64","os":"linux"}"#).unwrap();
            let new = Config::parse(new.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(relabel(json.as_bytes(), &old, &new).unwrap()).unwrap(), output);
        };
        let json = r#"{"id":"x","created":"\u003c", "architecture":"amd64","os":"linux"}"#;
        check(
            json,
            r#"{"architecture":"arm","os":"linux","variant":"v7"}"#,
            r#"{"id":"x","created":"\u003c", "architecture":"arm","variant":"v7","os":"linux"}"#,
        );
        check(json, r#"{"architecture":"amd64","os":"linux"}"#, json);
    }

    #[test]
    fn a_tag_is_pointed_to_its_layer() {
        let check = |input: &str, repository: &str, tag: &str, output: &str| {
            let done = point(input.as_bytes(), repository, tag, "Z").unwrap();
            assert_eq!(String::from_utf8(done).unwrap(), output);
        };
        check(r#"{"a":{"1":"X"}}"#, "a", "1", r#"{"a":{"1":"Z"}}"#);
        check(r#"{"a":{"v":"X"}}"#, "a", "V", r#"{"a":{"v":"X","V":"Z"}}"#);
        check(r#"{"a":{"1":"X"}}"#, "b", "1", r#"{"a":{"1":"X"},"b":{"1":"Z"}}"#);
        check("{}", "a", "1", r#"{"a":{"1":"Z"}}"#);
        let check = |input: &str, output: &str| {
            let done = unpoint(input.as_bytes(), "a", "1").unwrap();
            assert_eq!(String::from_utf8(done).unwrap(), output);
        };
        check(r#"{"a":{"1":"X"},"b":{"1":"Y"}}"#, r#"{"b":{"1":"Y"}}"#);
        check(r#"{"b":{}, "a":{"1":"X", "2":"Y"}}"#, r#"{"b":{}, "a":{"2":"Y"}}"#);
        check(r#"{"a":{"2":"X"}}"#, r#"{"a":{"2":"X"}}"#);
        check(r#"{"a":{"1":"X"}}"#, "{}");
        assert_eq!(layer_id(br#"{"a":{"1":"X"}}"#, "a", "1").as_deref(), Some("X"));
        assert_eq!(layer_id(br#"{"a":{"1":"X"}}"#, "a", "2"), None);
    }
}

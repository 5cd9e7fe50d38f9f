//! `manifest.json` of `docker save` archives: the members and names of each image. Parsed strictly, edited by byte ranges.

use super::names;
use crate::store::UNNAMED;
use image_model::manifest::DocumentError;
use image_model::raw_json::{self, JsonError, JsonObject, Splice};
use serde::Deserialize;
use std::ops::Range;

/// A parsed list with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestJson {
    bytes: Vec<u8>,
    pub items: Vec<ManifestItem>,
}

/// One image: paths in the archive, and its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestItem {
    at: Range<usize>,
    pub config: String,
    pub tags: Vec<String>,
    pub layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

const EMPTY: &[u8] = b"[]";

impl ManifestJson {
    /// Returns the list of an archive without images.
    pub fn empty() -> Self {
        Self { bytes: EMPTY.to_vec(), items: Vec::new() }
    }

    pub fn parse(bytes: Vec<u8>) -> Result<Self, DocumentError> {
        raw_json::check_syntax(&bytes)?;
        let mut items = Vec::new();
        for at in raw_json::elements(&bytes, &whole(&bytes), "manifest.json").map_err(not_a_list)? {
            let object = JsonObject::parse_at(&bytes, &at, "image")?;
            for key in ["Config", "RepoTags", "Layers", "LayerSources"] {
                object.unique(&bytes, key)?;
            }
            let raw: RawItem = serde_json::from_slice(&bytes[at.clone()])
                .map_err(|e| DocumentError::Shape(format!("an image of the list: {e}")))?;
            let (tags, layers) = (raw.repo_tags.unwrap_or_default(), raw.layers.unwrap_or_default());
            items.push(ManifestItem { at, config: raw.config, tags, layers });
        }
        Ok(Self { bytes, items })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the index of the image with this name; [`UNNAMED`] is the image without one.
    pub fn named(&self, tag: &str) -> Option<usize> {
        match tag {
            UNNAMED => self.items.iter().position(|item| item.tags.is_empty()),
            tag => self.items.iter().position(|item| item.has(tag)),
        }
    }

    /// Returns the list with `tag` referring to the image of these members. An image without other names is replaced; one
    /// with others keeps them.
    pub fn retag(&self, tag: &str, config: &str, layers: &[String]) -> Result<Self, DocumentError> {
        let once = self.without_repeats(tag)?;
        once.retag_item(once.named(tag), tag, config, layers)
    }

    /// Does what [`Self::retag`] does; `old` is the image that has the name now.
    pub fn retag_item(
        &self,
        old: Option<usize>,
        tag: &str,
        config: &str,
        layers: &[String],
    ) -> Result<Self, DocumentError> {
        let mut splice = Splice::default();
        let same = self.items.iter().position(|item| item.config == config && item.layers == layers);
        let is_alone = |i: usize| self.items[i].tags.iter().all(|other| names::same(other, tag));
        match (old, same) {
            (Some(old), Some(same)) if old == same => {}
            (None, Some(_)) if tag == UNNAMED => {}
            // The image stays unnamed, even if the same image has a name in another item.
            (Some(old), Some(_)) if tag == UNNAMED => self.set(&mut splice, old, config, layers)?,
            (Some(old), None) if is_alone(old) => self.set(&mut splice, old, config, layers)?,
            (old, same) => {
                match old {
                    Some(old) if is_alone(old) => self.remove_item(&mut splice, old),
                    Some(old) => self.remove_tag(&mut splice, old, tag)?,
                    None => {}
                }
                match same {
                    Some(same) => self.add_tag(&mut splice, same, tag)?,
                    None => self.append(&mut splice, tag, config, layers)?,
                }
            }
        }
        Self::parse(splice.apply(&self.bytes))
    }

    /// Returns the list with other configs for these images (by index). Names and layers are preserved.
    pub fn reconfigured(&self, items: &[(usize, String)]) -> Result<Self, DocumentError> {
        let mut splice = Splice::default();
        for (i, config) in items {
            self.set(&mut splice, *i, config, &self.items[*i].layers)?;
        }
        Self::parse(splice.apply(&self.bytes))
    }

    /// Returns the list with this config and these layers for these items. Their names are preserved.
    pub fn repointed(&self, items: &[usize], config: &str, layers: &[String]) -> Result<Self, DocumentError> {
        let mut splice = Splice::default();
        for i in items {
            self.set(&mut splice, *i, config, layers)?;
        }
        Self::parse(splice.apply(&self.bytes))
    }

    /// Returns the list without these items, whose indices are ascending.
    pub fn without(&self, items: &[usize]) -> Result<Self, DocumentError> {
        let mut list = self.clone();
        for i in items.iter().rev() {
            let mut splice = Splice::default();
            list.remove_item(&mut splice, *i);
            list = Self::parse(splice.apply(&list.bytes))?;
        }
        Ok(list)
    }

    /// Returns the list with this name in its first item only. Several items of one image may have the same name.
    fn without_repeats(&self, tag: &str) -> Result<Self, DocumentError> {
        let mut list = self.clone();
        loop {
            let is_named =
                |item: &&ManifestItem| if tag == UNNAMED { item.tags.is_empty() } else { item.has(tag) };
            let Some(repeat) = list.items.iter().rposition(|item| is_named(&item)) else { return Ok(list) };
            if list.named(tag) == Some(repeat) {
                return Ok(list);
            }
            let mut splice = Splice::default();
            match list.items[repeat].tags.iter().all(|other| names::same(other, tag)) {
                true => list.remove_item(&mut splice, repeat),
                false => list.remove_tag(&mut splice, repeat, tag)?,
            }
            list = Self::parse(splice.apply(&list.bytes))?;
        }
    }

    /// Returns the list without this name, and without the image if it has no other.
    pub fn untag(&self, tag: &str) -> Result<Self, DocumentError> {
        let list = self.without_repeats(tag)?;
        let mut splice = Splice::default();
        match list.named(tag) {
            Some(i) if list.items[i].tags.iter().all(|other| names::same(other, tag)) => {
                list.remove_item(&mut splice, i);
            }
            Some(i) => list.remove_tag(&mut splice, i, tag)?,
            None => {}
        }
        Self::parse(splice.apply(&list.bytes))
    }

    fn set(
        &self,
        splice: &mut Splice,
        i: usize,
        config: &str,
        layers: &[String],
    ) -> Result<(), DocumentError> {
        let item = &self.items[i];
        let object = JsonObject::parse_at(&self.bytes, &item.at, "image")?;
        if item.config != config {
            splice.set(&self.bytes, &object, "Config", &json(config)?, &[])?;
        }
        if item.layers != layers {
            splice.set(&self.bytes, &object, "Layers", &json(layers)?, &["RepoTags", "Config"])?;
            // Descriptors of foreign layers of the old image.
            splice.remove(&self.bytes, &object, "LayerSources")?;
        }
        Ok(())
    }

    fn append(
        &self,
        splice: &mut Splice,
        tag: &str,
        config: &str,
        layers: &[String],
    ) -> Result<(), DocumentError> {
        let tags = if tag == UNNAMED { "null".to_string() } else { json(&[names::familiar(tag)])? };
        let text = format!(r#"{{"Config":{},"RepoTags":{tags},"Layers":{}}}"#, json(config)?, json(layers)?);
        match self.items.last() {
            Some(last) => splice.replace(last.at.end..last.at.end, format!(",{text}")),
            None => {
                let start = whole(&self.bytes).start + 1;
                splice.replace(start..start, text);
            }
        }
        Ok(())
    }

    /// Removes an item and one comma.
    fn remove_item(&self, splice: &mut Splice, i: usize) {
        let at = &self.items[i].at;
        let at = match (i.checked_sub(1).map(|i| &self.items[i]), self.items.get(i + 1)) {
            (Some(previous), _) => previous.at.end..at.end,
            (None, Some(next)) => at.start..next.at.start,
            (None, None) => at.clone(),
        };
        splice.replace(at, Vec::new());
    }

    fn add_tag(&self, splice: &mut Splice, i: usize, tag: &str) -> Result<(), DocumentError> {
        let object = JsonObject::parse_at(&self.bytes, &self.items[i].at, "image")?;
        let tag = json(&names::familiar(tag))?;
        match self.tag_places(i)?.last() {
            Some(last) => splice.replace(last.end..last.end, format!(",{tag}")),
            None => splice.set(&self.bytes, &object, "RepoTags", &format!("[{tag}]"), &["Config"])?,
        }
        Ok(())
    }

    fn remove_tag(&self, splice: &mut Splice, i: usize, tag: &str) -> Result<(), DocumentError> {
        let places = self.tag_places(i)?;
        // At least one name stays here, so the range from the first to the last name can be replaced.
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
        let stays = self.items[i].tags.iter().zip(&places).filter(|(other, _)| !names::same(other, tag));
        let stays: Vec<&[u8]> = stays.map(|(_, at)| &self.bytes[at.clone()]).collect();
        splice.replace(first.start..last.end, stays.join(&b','));
        Ok(())
    }

    fn tag_places(&self, i: usize) -> Result<Vec<Range<usize>>, DocumentError> {
        let object = JsonObject::parse_at(&self.bytes, &self.items[i].at, "image")?;
        match object.unique(&self.bytes, "RepoTags")? {
            Some(list) if self.bytes.get(list.value_at.start) == Some(&b'[') => {
                Ok(raw_json::elements(&self.bytes, &list.value_at, "RepoTags")?)
            }
            _ => Ok(Vec::new()),
        }
    }
}

impl ManifestItem {
    pub fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| names::same(known, tag))
    }
}

/// Returns the range of the value in valid JSON, without surrounding white space.
fn whole(bytes: &[u8]) -> Range<usize> {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
    let start = bytes.iter().position(|b| !is_space(b)).unwrap_or(0);
    let end = bytes.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    start..end
}

fn not_a_list(error: JsonError) -> DocumentError {
    match error {
        JsonError::NotAnObject(_) => DocumentError::Shape("it is not a list of images".into()),
        other => other.into(),
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, DocumentError> {
    serde_json::to_string(value).map_err(|e| DocumentError::Shape(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retag(input: &str, tag: &str, config: &str, layers: &[&str]) -> String {
        let layers: Vec<String> = layers.iter().map(|l| (*l).to_string()).collect();
        let list = ManifestJson::parse(input.as_bytes().to_vec()).unwrap();
        String::from_utf8(list.retag(tag, config, &layers).unwrap().bytes).unwrap()
    }

    #[test]
    fn only_the_config_changes_when_the_layers_stay() {
        let check = |input: &str, output: &str| assert_eq!(retag(input, "a:1", "n", &["l"]), output);
        check(
            r#" [ {"Config" : "c", "RepoTags":["a:1"], "Layers":[ "l" ],"Parent":"\u003c"} ] "#,
            r#" [ {"Config" : "n", "RepoTags":["a:1"], "Layers":[ "l" ],"Parent":"\u003c"} ] "#,
        );
        check(
            r#"[{"Config":"c","RepoTags":["docker.io/library/a:1"],"Layers":["l"]}]"#,
            r#"[{"Config":"n","RepoTags":["docker.io/library/a:1"],"Layers":["l"]}]"#,
        );
        let right = r#"[{"Config":"n","RepoTags":["a:1","b:1"],"Layers":["l"]}]"#;
        check(right, right);
    }

    #[test]
    fn other_names_keep_their_image() {
        let check = |input: &str, output: &str| assert_eq!(retag(input, "a:1", "n", &["l"]), output);
        check(
            r#"[{"Config":"c","RepoTags":["a:1", "b:1","c:1"],"Layers":["l"]}]"#,
            r#"[{"Config":"c","RepoTags":["b:1","c:1"],"Layers":["l"]},{"Config":"n","RepoTags":["a:1"],"Layers":["l"]}]"#,
        );
        check(
            r#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}, {"Config":"n","RepoTags":null,"Layers":["l"]}]"#,
            r#"[{"Config":"n","RepoTags":["a:1"],"Layers":["l"]}]"#,
        );
        check(
            r#"[{"Config":"n","RepoTags":["b:1"],"Layers":["l"]},{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]"#,
            r#"[{"Config":"n","RepoTags":["b:1","a:1"],"Layers":["l"]}]"#,
        );
        check(
            r#"[{"Config":"c","RepoTags":["b:1"],"Layers":["l"]}]"#,
            r#"[{"Config":"c","RepoTags":["b:1"],"Layers":["l"]},{"Config":"n","RepoTags":["a:1"],"Layers":["l"]}]"#,
        );
        check("[]", r#"[{"Config":"n","RepoTags":["a:1"],"Layers":["l"]}]"#);
    }

    #[test]
    fn an_image_without_a_name_is_replaced_at_its_position() {
        assert_eq!(
            retag(r#"[{"Config":"c","RepoTags":null,"Layers":["l"]}]"#, "", "n", &["l"]),
            r#"[{"Config":"n","RepoTags":null,"Layers":["l"]}]"#
        );
    }

    #[test]
    fn new_layers_remove_the_sources_of_the_old_ones() {
        assert_eq!(
            retag(
                r#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"],"LayerSources":{"x":1}}]"#,
                "a:1",
                "n",
                &["m"]
            ),
            r#"[{"Config":"n","RepoTags":["a:1"],"Layers":["m"]}]"#
        );
    }

    #[test]
    fn an_ambiguous_list_is_refused() {
        let check = |input: &str, why: &str| {
            let error = ManifestJson::parse(input.as_bytes().to_vec()).unwrap_err().to_string();
            assert!(error.contains(why), "{input}: {error}");
        };
        check("null", "not a list");
        check("{}", "not a list");
        check("", "not JSON");
        check("\u{feff}[]", "not JSON");
        check("[] x", "not JSON");
        check("[][]", "not JSON");
        check("[1]", "not a JSON object");
        check(r#"[{"RepoTags":[]}]"#, "Config");
        check(r#"[{"Config":"a","Config":"b"}]"#, "more than once");
        check(r#"[{"Config":"a","config":"b"}]"#, "differs from");
        check(r#"[{"Config":"a","Layers":["l"],"layers":["m"]}]"#, "differs from");
        check(r#"[{"Config":7}]"#, "invalid type");
    }
}

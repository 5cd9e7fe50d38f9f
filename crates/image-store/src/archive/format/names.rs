//! Image names as `docker save` writes them: short and with a tag. `docker.io/library/app:1` is `app:1`.

use image_model::reference::RegistryRef;

/// The short form; a text that is no image name stays as it is.
pub fn familiar(text: &str) -> String {
    match text.parse::<RegistryRef>() {
        Ok(RegistryRef { digest: Some(_), .. }) | Err(_) => text.to_string(),
        Ok(parsed) => format!("{}:{}", parsed.familiar_name(), parsed.tag.as_deref().unwrap_or("latest")),
    }
}

/// Do both texts name the same image?
pub fn same(a: &str, b: &str) -> bool {
    a == b || familiar(a) == familiar(b)
}

/// `(docker.io/library/app, 1)`; `None` for what docker would not take as a name and tag.
pub fn full(text: &str) -> Option<(String, String)> {
    let parsed = text.parse::<RegistryRef>().ok().filter(|parsed| parsed.digest.is_none())?;
    Some((parsed.name(), parsed.tag.unwrap_or_else(|| "latest".into())))
}

/// Whose names the images of an archive have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `NAME:TAG`, as `docker save` writes them into `manifest.json` and containerd into `index.json`.
    Docker,
    /// Those of an OCI layout: the tag that an entry of `index.json` has, letter by letter. `manifest.json`, if
    /// there is one, is another reader's.
    Layout,
}

impl Naming {
    /// The form of a name in which it is compared.
    pub fn key(self, tag: &str) -> String {
        match self {
            Self::Docker => familiar(tag),
            Self::Layout => tag.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_their_short_form() {
        for text in ["app:1", "docker.io/library/app:1", "index.docker.io/app:1"] {
            assert_eq!(familiar(text), "app:1", "{text}");
        }
        assert_eq!(familiar("q.io/a/b"), "q.io/a/b:latest");
        assert_eq!(familiar("No Name"), "No Name");
        assert!(!same("app:1", "localhost/app:1"));
        assert_eq!(full("app:1"), Some(("docker.io/library/app".into(), "1".into())));
    }
}

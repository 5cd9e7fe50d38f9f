//! Image names in archives. `docker save` writes them in their familiar form: `app:1` for `docker.io/library/app:1`.

use image_model::reference::RegistryRef;

/// Returns the familiar form; a text that is not an image name is returned unchanged.
pub fn familiar(text: &str) -> String {
    match text.parse::<RegistryRef>() {
        Ok(RegistryRef { digest: Some(_), .. }) | Err(_) => text.to_string(),
        Ok(parsed) => format!("{}:{}", parsed.familiar_name(), parsed.tag.as_deref().unwrap_or("latest")),
    }
}

/// Returns whether both texts are the same image name.
pub fn same(a: &str, b: &str) -> bool {
    a == b || familiar(a) == familiar(b)
}

/// Returns repository and tag, such as `(docker.io/library/app, 1)`; `None` if docker would not accept the name.
pub fn full(text: &str) -> Option<(String, String)> {
    let parsed = text.parse::<RegistryRef>().ok().filter(|parsed| parsed.digest.is_none())?;
    Some((parsed.name(), parsed.tag.unwrap_or_else(|| "latest".into())))
}

/// The names that the images of an archive have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `NAME:TAG`, as `docker save` writes them into `manifest.json` and containerd into `index.json`.
    Docker,
    /// The tags of an OCI layout, as entries of `index.json` have them. `manifest.json` is ignored.
    Layout,
}

impl Naming {
    /// Returns the form in which names are compared.
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

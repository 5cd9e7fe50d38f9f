//! Extension headers: PAX records and GNU's long names.

use std::collections::BTreeSet;

/// Largest extension header. Real ones have some hundred bytes; without a limit, a header could make a reader load gigabytes.
pub const EXTENSION_MAX: u64 = 1 << 20;
/// Longest name or link target; Linux has at most 4,096 bytes in a path.
const NAME_MAX: usize = 64 << 10;
/// The largest size that fits ustar's eleven octal digits.
const OCTAL_MAX: u64 = (1 << 33) - 1;

/// The type of an extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionKind {
    /// PAX records for the next member (`x`).
    Pax,
    /// PAX records for all later members (`g`).
    Global,
    /// GNU long name (`L`).
    LongName,
    /// GNU long link target (`K`).
    LongLink,
}

/// The extension headers of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The name, if an extension sets it.
    pub name: Option<Vec<u8>>,
    /// The link target, if an extension sets it.
    pub link: Option<Vec<u8>>,
    size: Option<u64>,
    has_pax: bool,
}

impl Extensions {
    /// Adds a header.
    ///
    /// # Errors
    /// The reason if it is malformed or contradicts another one.
    pub fn add(&mut self, kind: ExtensionKind, content: &[u8]) -> Result<(), String> {
        match kind {
            ExtensionKind::LongName => set(&mut self.name, gnu_text(content)?, "name"),
            ExtensionKind::LongLink => set(&mut self.link, gnu_text(content)?, "link target"),
            ExtensionKind::Global => Err("a global header before a member".into()),
            ExtensionKind::Pax if self.has_pax => Err("two PAX headers before one member".into()),
            ExtensionKind::Pax => {
                self.has_pax = true;
                self.add_records(content)
            }
        }
    }

    fn add_records(&mut self, content: &[u8]) -> Result<(), String> {
        for (key, value) in records(content)? {
            refuse_sparse(key)?;
            match key {
                b"path" => set(&mut self.name, text(value)?, "name")?,
                b"linkpath" => set(&mut self.link, text(value)?, "link target")?,
                b"size" => self.size = Some(size(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the size of a member whose header has `in_header`. PAX may only set a size that the header cannot hold:
    /// otherwise readers that use one and readers that use the other would see different members.
    ///
    /// # Errors
    /// The reason if the sizes differ.
    pub fn size(&self, in_header: u64) -> Result<u64, String> {
        match self.size {
            None => Ok(in_header),
            Some(size) if size == in_header => Ok(size),
            Some(size) if size > OCTAL_MAX && matches!(in_header, 0 | OCTAL_MAX) => Ok(size),
            Some(size) => Err(format!(
                "the member has {size} bytes in its PAX header and {in_header} in its own header"
            )),
        }
    }
}

/// Checks that a global header does not rename or resize later members: Go ignores it, GNU tar does not.
///
/// # Errors
/// The reason, for a refused or malformed header.
pub fn check_global(content: &[u8]) -> Result<(), String> {
    for (key, _) in records(content)? {
        refuse_sparse(key)?;
        if matches!(key, b"path" | b"linkpath" | b"size") {
            let key = super::show(key);
            return Err(format!("a global header that sets \"{key}\" for all members"));
        }
    }
    Ok(())
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits `LENGTH KEY=VALUE\n` records. Each must be exact, and no key may occur twice.
fn records(content: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let malformed = || "a malformed PAX header".to_string();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut rest = content;
    while !rest.is_empty() {
        let blank = rest.iter().take(12).position(|b| *b == b' ').ok_or_else(malformed)?;
        let length = decimal(&rest[..blank]).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        if length <= blank + 1 || length > rest.len() {
            return Err(malformed());
        }
        let (record, behind) = rest.split_at(length);
        let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if !seen.insert(key) {
            return Err(format!("a PAX header with \"{}\" twice", super::show(key)));
        }
        found.push((key, value));
        rest = behind;
    }
    Ok(found)
}

fn refuse_sparse(key: &[u8]) -> Result<(), String> {
    match key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize" {
        true => Err("a sparse member; its holes are read differently by different tools".into()),
        false => Ok(()),
    }
}

fn set(place: &mut Option<Vec<u8>>, value: Vec<u8>, what: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("two extension headers that set the {what} of one member")),
    }
}

/// Checks a PAX name. Readers interpret an empty one as "that of the header" or as "no name".
fn text(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.is_empty() || value.contains(&0) || value.len() > NAME_MAX {
        return Err("a PAX name that is empty, too long or holds a NUL".into());
    }
    Ok(value.to_vec())
}

/// Checks a GNU long name: it ends with a NUL, and only NULs follow.
fn gnu_text(content: &[u8]) -> Result<Vec<u8>, String> {
    let name = until_nul(content);
    let hidden = content[name.len()..].iter().any(|b| *b != 0);
    if name.is_empty() || hidden || name.len() > NAME_MAX {
        return Err("a long name that is empty, too long or holds a NUL".into());
    }
    Ok(name.to_vec())
}

fn size(value: &[u8]) -> Result<u64, String> {
    let size = decimal(value).filter(|size| *size <= i64::MAX as u64);
    size.ok_or_else(|| format!("\"{}\" is not a size", super::show(value)))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns the bytes before the first NUL.
pub fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

//! Headers that extend the next one: PAX records, and GNU's long names.

use std::collections::BTreeSet;

/// Longest extension header. Real ones have some hundred bytes; a reader that trusts the size loads gigabytes.
pub const EXTENSION_MAX: u64 = 1 << 20;
/// Longest name or link target; Linux has at most 4,096 bytes in a path.
const NAME_MAX: usize = 64 << 10;
/// The largest size that fits ustar's eleven octal digits.
const OCTAL_MAX: u64 = (1 << 33) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionKind {
    Pax,
    Global,
    LongName,
    LongLink,
}

/// What the extension headers in front of one member say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub name: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    size: Option<u64>,
    has_pax: bool,
}

impl Extensions {
    pub fn add(&mut self, kind: ExtensionKind, content: &[u8]) -> Result<(), String> {
        match kind {
            ExtensionKind::LongName => set(&mut self.name, gnu_text(content)?, "name"),
            ExtensionKind::LongLink => set(&mut self.link, gnu_text(content)?, "link target"),
            ExtensionKind::Global => Err("a global header in front of a member".into()),
            ExtensionKind::Pax if self.has_pax => Err("two PAX headers in front of one member".into()),
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

    /// The size of a member whose header says `in_header`. PAX may only add what the header cannot hold: readers
    /// that heed one and readers that heed the other would see different members from there on.
    pub fn size(&self, in_header: u64) -> Result<u64, String> {
        match self.size {
            None => Ok(in_header),
            Some(size) if size == in_header => Ok(size),
            Some(size) if size > OCTAL_MAX && matches!(in_header, 0 | OCTAL_MAX) => Ok(size),
            Some(size) => Err(format!("PAX says the member has {size} bytes, its header says {in_header}")),
        }
    }
}

/// A global header may note things, but not rename or resize what follows: Go ignores it, GNU tar heeds it.
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

/// Splits `LENGTH KEY=VALUE\n` records. Each must be exact, and no key may come twice.
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
            return Err(format!("a PAX header that says \"{}\" twice", super::show(key)));
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

/// A PAX name. An empty one would mean "as the header has it" to some and "no name" to others.
fn text(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.is_empty() || value.contains(&0) || value.len() > NAME_MAX {
        return Err("a PAX name that is empty, too long or holds a NUL".into());
    }
    Ok(value.to_vec())
}

/// A GNU long name ends with a NUL; nothing may hide behind it.
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
    size.ok_or_else(|| format!("\"{}\" is no size", super::show(value)))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The bytes before the first NUL.
pub fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

//! Sparse files in PAX records (GNU tar's formats 0.0, 0.1 and 1.0), as Go's archive/tar reads them.

/// The largest map, in the records or before the content. Go has the same limit.
pub const MAP_MAX: usize = 1 << 20;

/// The records that describe a sparse file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseRecords {
    major: Vec<u8>,
    minor: Vec<u8>,
    name: Vec<u8>,
    size: Vec<u8>,
    real_size: Vec<u8>,
    blocks: Vec<u8>,
    /// `OFFSET,LENGTH,OFFSET,LENGTH`.
    map: Vec<u8>,
    /// The numbers of format 0.0, whose keys occur once for each of them.
    numbers: Vec<Vec<u8>>,
}

/// A sparse file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseFile {
    /// Its name, unless it is that of the header.
    pub name: Option<Vec<u8>>,
    /// The size with its holes; `None`: the size of the header.
    pub size: Option<i64>,
    /// The parts that are not holes. `None`: the map is before the content.
    pub map: Option<SparseMap>,
}

/// The parts of a file that are not holes, as offset and length, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseMap(Vec<(u64, u64)>);

impl SparseRecords {
    /// Adds a record; other keys than those of sparse files are ignored.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let place = match key.strip_prefix(b"GNU.sparse.").unwrap_or_default() {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.blocks,
            b"map" => &mut self.map,
            part @ (b"offset" | b"numbytes") => {
                let is_expected = (part == b"offset") == self.numbers.len().is_multiple_of(2);
                if !is_expected || value.contains(&b',') {
                    return Err(malformed());
                }
                self.numbers.push(value.to_vec());
                return Ok(());
            }
            _ => return Ok(()),
        };
        *place = value.to_vec();
        Ok(())
    }

    /// The sparse file that the records describe, if any. Records of an unknown version are ignored.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn file(self) -> Result<Option<SparseFile>, String> {
        let map = if self.numbers.is_empty() { self.map } else { self.numbers.join(&b',') };
        let is_before_content = match (self.major.as_slice(), self.minor.as_slice()) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if !map.is_empty() => false,
            _ => return Ok(None),
        };
        let size = if self.size.is_empty() { self.real_size } else { self.size };
        let size = match size.is_empty() {
            true => None,
            false => Some(decimal(&size).ok_or_else(malformed)?),
        };
        let map = match is_before_content {
            true => None,
            false => Some(SparseMap::of_records(&self.blocks, &map)?),
        };
        Ok(Some(SparseFile { name: (!self.name.is_empty()).then_some(self.name), size, map }))
    }
}

impl SparseMap {
    fn of_records(blocks: &[u8], map: &[u8]) -> Result<Self, String> {
        let count = decimal(blocks).and_then(|count| usize::try_from(count).ok()).ok_or_else(malformed)?;
        let numbers: Vec<&[u8]> =
            if map.is_empty() { Vec::new() } else { map.split(|b| *b == b',').collect() };
        match Some(numbers.len()) == count.checked_mul(2) {
            true => Self::of_numbers(&numbers),
            false => Err(malformed()),
        }
    }

    /// The number of lines of a map before the content, which has at least the first of them.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn lines(content: &[u8]) -> Result<usize, String> {
        let count = content.split(|b| *b == b'\n').next().and_then(decimal);
        let count =
            count.and_then(|count| usize::try_from(count).ok()).and_then(|count| count.checked_mul(2));
        count.and_then(|count| count.checked_add(1)).ok_or_else(malformed)
    }

    /// The map before the content, from all of its lines. Source: GNU tar's manual, "Storing Sparse Files"; the numbers are
    /// decimal.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn of_content(content: &[u8]) -> Result<Self, String> {
        let count = Self::lines(content)?;
        let lines: Vec<&[u8]> = content.split(|b| *b == b'\n').take(count).collect();
        if lines.len() < count { Err(malformed()) } else { Self::of_numbers(&lines[1..]) }
    }

    fn of_numbers(numbers: &[&[u8]]) -> Result<Self, String> {
        let number = |text: &[u8]| decimal(text).and_then(|number| u64::try_from(number).ok());
        let pairs = numbers.chunks_exact(2).map(|pair| Some((number(pair[0])?, number(pair[1])?)));
        pairs.collect::<Option<Vec<_>>>().map(Self).ok_or_else(malformed)
    }

    /// The parts, if they are in order within a file of this size, and have as many bytes as the archive.
    ///
    /// # Errors
    /// The reason why Go refuses them.
    pub fn parts(&self, size: i64, stored: u64) -> Result<&[(u64, u64)], String> {
        let size = u64::try_from(size).map_err(|_| malformed())?;
        let (mut end, mut total) = (0_u64, 0_u64);
        for (offset, length) in &self.0 {
            let part_end = offset.checked_add(*length).filter(|part_end| *offset >= end && *part_end <= size);
            end = part_end.ok_or_else(malformed)?;
            // At most `size`.
            total += length;
        }
        if total == stored { Ok(&self.0) } else { Err(malformed()) }
    }
}

/// A decimal number as Go's strconv.ParseInt reads it: a sign is accepted.
pub fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn malformed() -> String {
    "a sparse file with a malformed map".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[(&str, &str)]) -> Result<Option<SparseFile>, String> {
        let mut sparse = SparseRecords::default();
        for (key, value) in records {
            sparse.add(format!("GNU.sparse.{key}").as_bytes(), value.as_bytes())?;
        }
        sparse.file()
    }

    #[test]
    fn records_of_every_version_are_read() {
        let map = Some(SparseMap(vec![(512, 1024), (4096, 0)]));
        let old = [("size", "4096"), ("numblocks", "2"), ("offset", "512"), ("numbytes", "1024")];
        let old = [&old[..], &[("offset", "4096"), ("numbytes", "0")]].concat();
        let found = file(&old).unwrap().unwrap();
        assert_eq!((found.size, &found.map, found.name), (Some(4096), &map, None));
        let middle = [("size", "4096"), ("numblocks", "2"), ("map", "512,1024,4096,0"), ("name", "a/b")];
        let found = file(&middle).unwrap().unwrap();
        assert_eq!((found.size, found.map, found.name), (Some(4096), map, Some(b"a/b".to_vec())));
        let new = [("major", "1"), ("minor", "0"), ("realsize", "4096")];
        let found = file(&new).unwrap().unwrap();
        assert_eq!((found.size, found.map), (Some(4096), None));
        assert_eq!(file(&[("major", "2"), ("minor", "0")]).unwrap(), None);
        assert_eq!(file(&[("size", "4096")]).unwrap(), None);
    }

    #[test]
    fn malformed_maps_are_refused() {
        for records in [
            &[("numbytes", "1")][..],
            &[("offset", "1"), ("offset", "2")],
            &[("offset", "1,2")],
            &[("map", "1,2")],
            &[("map", "1,2"), ("numblocks", "2")],
            &[("map", "1,-2"), ("numblocks", "1")],
            &[("map", "1,2"), ("numblocks", "9223372036854775807")],
            &[("map", "1,2"), ("numblocks", "1"), ("size", "x")],
        ] {
            assert!(file(records).is_err(), "{records:?}");
        }
    }

    #[test]
    fn the_map_before_the_content_ends_with_its_last_number() {
        let content = b"2\n0\n5\n10\n1\n\0\0";
        assert_eq!(SparseMap::lines(content), Ok(5));
        assert_eq!(SparseMap::of_content(content), Ok(SparseMap(vec![(0, 5), (10, 1)])));
        assert_eq!(SparseMap::of_content(b"0\n\0"), Ok(SparseMap(Vec::new())));
        for content in [&b"x\n"[..], b"-1\n", b"9223372036854775807\n", b"1\n-1\n5\n"] {
            assert!(SparseMap::of_content(content).is_err());
        }
    }

    #[test]
    fn parts_must_be_in_order_and_as_long_as_the_content() {
        let check = |parts: &[(u64, u64)], size, stored, is_fine| {
            assert_eq!(SparseMap(parts.to_vec()).parts(size, stored).is_ok(), is_fine, "{parts:?}");
        };
        check(&[(0, 5), (10, 1)], 11, 6, true);
        check(&[], 1 << 40, 0, true);
        check(&[(0, 5), (10, 1)], 11, 7, false);
        check(&[(0, 5), (10, 1)], 10, 6, false);
        check(&[(0, 5), (4, 1)], 11, 6, false);
        check(&[(u64::MAX, 5)], i64::MAX, 5, false);
        check(&[], -1, 0, false);
    }
}

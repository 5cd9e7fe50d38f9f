//! A file read as if some of its bytes were overwritten.

use super::ByteWrite;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

#[derive(Clone)]
pub struct PatchedFile {
    file: Arc<File>,
    /// All within the file.
    writes: Arc<[ByteWrite]>,
}

impl PatchedFile {
    pub fn new(file: Arc<File>, writes: &[ByteWrite]) -> Self {
        Self { file, writes: writes.into() }
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let count = self.file.read_at(buffer, at)?;
        self.overlay(&mut buffer[..count], at);
        Ok(count)
    }

    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)?;
        self.overlay(buffer, at);
        Ok(())
    }

    fn overlay(&self, buffer: &mut [u8], at: u64) {
        let end = at + buffer.len() as u64;
        for (start, bytes) in self.writes.iter() {
            let (from, to) = (at.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                let new = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - at) as usize..(to - at) as usize].copy_from_slice(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_read_as_if_it_were_overwritten() {
        let old: Vec<u8> = (0..20).collect();
        let writes = [(2, vec![100; 3]), (5, vec![101]), (18, vec![102; 2])];
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &old).unwrap();
        let mut new = old;
        for (at, bytes) in &writes {
            new[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        let patched_file = PatchedFile::new(Arc::new(file), &writes);
        for start in 0..20 {
            for end in start..=20 {
                let mut buffer = vec![0; end - start];
                patched_file.read_exact_at(&mut buffer, start as u64).unwrap();
                assert_eq!(buffer, new[start..end]);
                assert_eq!(patched_file.read_at(&mut buffer, start as u64).unwrap(), end - start);
                assert_eq!(buffer, new[start..end]);
            }
        }
    }
}

//! Tables of contents: a file has the content of its digest whatever the table says, and few bytes are requested.

use super::{filled, gzip, hasher};
use error::Error;
use image_evidence::file::{self, FileFacts};
use image_evidence::layer::{LayerEntry, LayerFacts, toc as tables};
use image_evidence::{elf::sampler::Sampler, overlay::OverlayTree};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::archive::tar::write::{END, file_headers, padding};
use image_store::store::{ImageSource, Pointer};
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

/// Zeros at the beginning, because smaller layers are read completely.
const FRONT: u64 = 1 << 20;

/// The contents of the files; the last one has two parts.
static CONTENTS: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let arm64 = include_bytes!("../../seeds/elf/linux-arm64").to_vec();
    let riscv64 = include_bytes!("../../seeds/elf/linux-riscv64").to_vec();
    let mut large = include_bytes!("../../seeds/elf/linux-s390x").to_vec();
    large.resize(9000, 7);
    [arm64, riscv64, b"#!/bin/sh\n".to_vec(), large]
});
const CUT: usize = 5000;

/// The compressed parts, gzip and zstd.
static PACKED: LazyLock<[Vec<Vec<u8>>; 2]> = LazyLock::new(|| {
    let [first, second, third, large] = &*CONTENTS;
    let parts = [first, second, third, &large[..CUT], &large[CUT..]];
    [parts.map(gzip).to_vec(), parts.map(|part| zstd::encode_all(part, 1).expect("memory")).to_vec()]
});

/// The first byte selects the format, the rest is the table. In it `@0` is the digest of a content, `<0` the offset of a
/// part, `>0` its end.
pub fn toc(bytes: &[u8]) {
    let (form, text) = bytes.split_first().unwrap_or((&0, &[]));
    let is_zstd = form & 1 == 1;
    let parts = &PACKED[usize::from(is_zstd)];
    let begin = |part: usize| FRONT + parts[..part].iter().map(|part| part.len() as u64).sum::<u64>();
    let json = filled(text, |mark, number| match mark {
        b'@' => Some(Digest::of(CONTENTS.get(number)?).hex().to_string()),
        b'<' => (number <= parts.len()).then(|| begin(number).to_string()),
        b'>' => (number < parts.len()).then(|| begin(number + 1).to_string()),
        _ => None,
    });
    let source = Blob::new(parts.concat(), &json, is_zstd);
    let Ok(Some(mut facts)) = tables::read(&source, &source.layer, &hasher()) else { return };
    let said: Vec<Option<FileFacts>> = CONTENTS
        .iter()
        .filter(|content| contains(&json, Digest::of(content).hex().as_bytes()))
        .map(|content| classify(content))
        .collect();
    // Everything between quotes may be a name.
    for path in json.split(|byte| *byte == b'"').take(100) {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        source.forget();
        let fetched = tables::fetch(&source, &mut facts, path).expect("nothing is wrong with the store");
        let (requests, asked) = source.asked();
        assert!(requests <= 32 && asked <= source.layer.size, "{requests} requests, {asked} bytes");
        if fetched {
            let Some(LayerEntry::File { facts, .. }) = followed(&facts, path) else {
                panic!("fetched, and no file")
            };
            assert!(said.iter().any(|said| said.as_ref() == facts), "{facts:?} is not what its digest says");
        }
    }
    let tree = OverlayTree::new(vec![Some(&facts)]);
    for path in ["/", "/bin/sh", "/app", "/a/../b"] {
        tree.resolve(path.as_bytes());
    }
    tree.programs().for_each(drop);
}

fn followed<'a>(facts: &'a LayerFacts, path: &'a [u8]) -> Option<LayerEntry<'a>> {
    let mut path = path;
    for _ in 0..50 {
        match facts.entry(path)? {
            LayerEntry::HardLink(further) => path = further,
            node => return Some(node),
        }
    }
    None
}

fn classify(content: &[u8]) -> Option<FileFacts> {
    let mut sampler = Sampler::default();
    sampler.push(content);
    file::classify(&sampler.finish())
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|part| part == wanted)
}

/// A store of one blob, which begins with zeros that are not in memory.
struct Blob {
    bytes: Vec<u8>,
    layer: Descriptor,
    requests: AtomicU64,
    asked: Mutex<u64>,
}

impl Blob {
    fn new(mut bytes: Vec<u8>, json: &[u8], is_zstd: bool) -> Self {
        let at = FRONT + bytes.len() as u64;
        let mut annotations = Vec::new();
        if is_zstd {
            let packed = zstd::encode_all(json, 1).expect("memory");
            annotations.push(("checksum", Digest::of(&packed).to_string()));
            annotations.push(("position", format!("{at}:{}:{}:1", packed.len(), json.len())));
            bytes.extend(packed);
        } else {
            let size = json.len() as u64;
            let headers = file_headers("stargz.index.json", size);
            bytes.extend(gzip(&[&headers, json, padding(size), &END].concat()));
            bytes.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0]);
            bytes.extend(format!("{at:016x}STARGZ").into_bytes());
            bytes.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        // Not its digest: it is never read completely.
        let digest = Digest::of(b"");
        let mut layer = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, FRONT + bytes.len() as u64);
        layer.annotations = annotations
            .into_iter()
            .map(|(key, value)| (format!("io.github.containers.zstd-chunked.manifest-{key}"), value))
            .collect();
        if !is_zstd {
            let key = "containerd.io/snapshot/stargz/toc.digest";
            layer.annotations.insert(key.into(), Digest::of(json).to_string());
        }
        Self { bytes, layer, requests: AtomicU64::new(0), asked: Mutex::new(0) }
    }

    fn forget(&self) {
        self.requests.store(0, Ordering::Relaxed);
        *self.asked.lock().expect("no panic") = 0;
    }

    fn asked(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), *self.asked.lock().expect("no panic"))
    }
}

impl ImageSource for Blob {
    fn display_name(&self) -> String {
        "fuzz".into()
    }

    fn read_document(&self, _: &Pointer) -> Result<Document, Error> {
        Err(Error::not_found("read", "there are no documents"))
    }

    fn resolve(&self, _: &Pointer) -> Result<Option<Descriptor>, Error> {
        Ok(None)
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn has_blob(&self, _: &Descriptor) -> Result<bool, Error> {
        Ok(true)
    }

    fn open_blob(&self, _: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        panic!("a table and single files are all that is asked for")
    }

    fn open_blob_range<'a>(
        &'a self,
        _: &Descriptor,
        part: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        assert!(part.start < part.end && part.end <= self.layer.size, "{part:?}");
        self.requests.fetch_add(1, Ordering::Relaxed);
        *self.asked.lock().expect("no panic") += part.end - part.start;
        let zeros = FRONT.min(part.end).saturating_sub(part.start);
        let [start, end] = [part.start, part.end].map(|at| at.saturating_sub(FRONT) as usize);
        Ok(Some(Box::new(io::repeat(0).take(zeros).chain(Cursor::new(&self.bytes[start..end])))))
    }
}

//! Uploads of large blobs: one request, and a second one for the rest after an interruption.

use super::content::noise;
use super::*;
use multiarch_tests::fake_registry::{Act, Fault};

const MIB: u64 = 1 << 20;

fn large() -> (Vec<u8>, Descriptor) {
    let bytes = noise(4 * MIB as usize);
    let blob = Descriptor::of(media_type::OCI_LAYER, &bytes);
    (bytes, blob)
}

/// The number of bytes in each PUT, and the number of sessions.
fn sent(rig: &Rig) -> (Vec<u64>, usize) {
    let log = rig.registry.log();
    let puts = log.iter().filter(|l| l.method == "PUT").map(|l| l.request_bytes).collect();
    (puts, log.iter().filter(|l| l.method == "POST").count())
}

fn put(at: u64) -> Fault {
    Fault::when(|r| r.method == "PUT", Act::CutRequest(at))
}

#[test]
fn an_interrupted_upload_is_resumed() {
    let (bytes, blob) = large();
    let check = |options: Options, cut: u64, again: u64, sessions: usize| {
        let rig = Rig::new(options);
        rig.registry.fault(put(cut));
        write(&rig.store(), &blob, &bytes).unwrap();
        let (puts, opened) = sent(&rig);
        assert_eq!(
            (puts.len(), puts.last(), opened),
            (2, Some(&again), sessions),
            "cut after {cut}: {puts:?}"
        );
        assert_eq!((rig.registry.violations(), rig.registry.open_uploads()), (vec![], 0));
        assert!(rig.registry.has_blob("team/app", blob.digest.as_str()));
    };
    check(Options::default(), 3 * MIB, MIB, 1);
    check(Options { relative_locations: true, ..Options::default() }, 3 * MIB, MIB, 1);
    // `Range: 0-0` means one byte or none.
    check(Options::default(), 1, 4 * MIB, 2);
    // docker-registry 2.8.2 forgets an interrupted session.
    check(Options { resumable: false, ..Options::default() }, 3 * MIB, 4 * MIB, 2);
}

#[test]
fn a_wrong_range_of_a_session_restarts_the_upload() {
    let (bytes, blob) = large();
    for range in ["0-999999", "0-3999999", "0-99999999999", "nonsense"] {
        let rig = Rig::open();
        rig.registry.fault(put(3 * MIB));
        let is_question = |r: &multiarch_tests::fake_registry::Request| r.method == "GET";
        rig.registry.fault(Fault::when(is_question, Act::SetHeader("Range".into(), range.into())));
        write(&rig.store(), &blob, &bytes).unwrap();
        assert_eq!(sent(&rig).0.last(), Some(&(4 * MIB)), "{range}");
        assert_eq!(rig.registry.open_uploads(), 0, "{range}");
        assert!(rig.registry.has_blob("team/app", blob.digest.as_str()));
    }
}

#[test]
fn an_upload_that_always_fails_leaves_no_session() {
    let (bytes, blob) = large();
    let rig = Rig::open();
    rig.registry.fault(put(MIB).forever());
    let error = write(&rig.store(), &blob, &bytes).unwrap_err();
    assert_eq!((error.kind, rig.registry.open_uploads()), (Exit::Network, 0), "{error}");
    assert_eq!(sent(&rig).0.len(), 5);
}

/// A blob in one request is its own last chunk, and the last chunk may be shorter than the minimum.
#[test]
fn the_minimum_chunk_length_does_not_apply_to_a_single_request() {
    let (bytes, blob) = large();
    for minimum in ["5242880", "10737418240", "x", "-1"] {
        let rig = Rig::open();
        let opens = Fault::when(
            |r| r.method == "POST",
            Act::SetHeader("OCI-Chunk-Min-Length".into(), minimum.into()),
        );
        rig.registry.fault(opens);
        write(&rig.store(), &blob, &bytes).unwrap();
        assert_eq!(sent(&rig), (vec![4 * MIB], 1), "{minimum}");
        assert_eq!(rig.registry.violations(), [""; 0]);
    }
}

//! Credentials are used and never printed.

use super::{REPOSITORY, Rig};
use crate::tools::Ran;
use multiarch_tests::fake_registry::{Auth, Authorization, Bearer, Listener, Options};
use std::fs;

const CANARY: &str = "c4nary-pa55word";

/// A secret that no program may print.
fn canary_is_silent(ran: &Ran) {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("ann:{CANARY}"));
    for secret in [CANARY, &encoded, "fake."] {
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran}");
    }
}

#[test]
fn credentials_of_docker_login_are_used_and_never_printed() {
    let basic = Auth::Basic { user: "ann".into(), password: CANARY.into() };
    let bearer = Auth::Bearer(Bearer { private: vec![REPOSITORY.into()], ..Bearer::new("ann", CANARY) });
    for (auth, kind) in [(basic, Authorization::Basic), (bearer, Authorization::Bearer)] {
        let rig = Rig::with(Options { auth, ..Options::default() });
        let ran = rig.fix(&["-v"]).exits(4);
        canary_is_silent(&ran);
        rig.user.log_in(&rig.registry.host(), "ann", "not-this-one");
        canary_is_silent(&rig.fix(&["-v"]).exits(4));
        rig.assert_nothing_written();
        rig.user.log_in(&rig.registry.host(), "ann", CANARY);
        rig.registry.take_log();
        let ran = rig.fix(&["-v"]).exits(0).prints(rig.right.digest());
        canary_is_silent(&ran);
        let log = rig.registry.log();
        let done = log.iter().filter(|l| l.listener == Listener::Registry && l.status != Some(401));
        assert!(done.clone().count() == 9 && done.into_iter().all(|l| l.authorization == kind), "{log:?}");
        // One rejected request, and with Bearer one for a token.
        assert_eq!(log.len(), if kind == Authorization::Basic { 10 } else { 11 }, "{log:?}");
        rig.assert_sound();
        let config = rig.user.work().join("../home/.docker/config.json");
        fs::write(config, format!(r#"{{"auths":{{"{}":{{"auth":"{CANARY}"#, rig.registry.host())).unwrap();
        let ran = rig.fix(&["--dry-run", "-v"]);
        canary_is_silent(&ran);
    }
}

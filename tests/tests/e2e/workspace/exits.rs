//! Exit codes are one language. `binfmt-setup` has no arrow to the others, so it says them by itself: they must agree.

use error::Exit;

#[test]
fn every_tool_means_the_same_by_a_number() {
    let rows = [
        (Exit::Done as u8, binfmt_setup::exit::Exit::Done as u8),
        (Exit::CheckFailed as u8, binfmt_setup::exit::Exit::Found as u8),
        (Exit::Usage as u8, binfmt_setup::exit::Exit::Usage as u8),
        (Exit::BadInput as u8, binfmt_setup::exit::Exit::BadInput as u8),
        (Exit::NotPermitted as u8, binfmt_setup::exit::Exit::NotPermitted as u8),
        (Exit::NotFound as u8, binfmt_setup::exit::Exit::NotFound as u8),
        (Exit::Conflict as u8, binfmt_setup::exit::Exit::Conflict as u8),
        (Exit::Local as u8, binfmt_setup::exit::Exit::Io as u8),
    ];
    for (ours, theirs) in rows {
        assert_eq!(ours, theirs);
    }
}

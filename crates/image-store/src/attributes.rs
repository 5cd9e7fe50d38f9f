//! What a file has besides its content: owner, mode, times, extended attributes (and with them ACLs).

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

/// No file system takes more: XATTR_LIST_MAX and XATTR_SIZE_MAX, xattr(7).
const XATTR_MAX: usize = 64 << 10;

/// Gives the new file what the one has whose place it takes, as far as that is permitted: only root gives files away
/// and sets every attribute.
pub fn keep(old: &File, new: &File) -> io::Result<()> {
    let (was, is) = (old.metadata()?, new.metadata()?);
    if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
        permitted(fchown(new, Some(was.uid()), Some(was.gid())))?;
    }
    new.set_permissions(Permissions::from_mode(was.mode() & 0o7777))?;
    // Behind the mode: an ACL is more than that, and setting the mode would cut it.
    keep_xattrs(old, new)
}

/// The times as well: for a file whose name and size mean the same as before.
pub fn keep_times(old: &File, new: &File) -> io::Result<()> {
    let was = old.metadata()?;
    new.set_times(FileTimes::new().set_accessed(was.accessed()?).set_modified(was.modified()?))
}

fn permitted(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn keep_xattrs(old: &File, new: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match flistxattr(old, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; XATTR_MAX];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Gone meanwhile, or not for our eyes: then it is not for us to keep.
        let Ok(length) = fgetxattr(old, name, value.as_mut_slice()) else { continue };
        match fsetxattr(new, name, &value[..length], XattrFlags::empty()) {
            // What a security module keeps of its own accord it does not take from us.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

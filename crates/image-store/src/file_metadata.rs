//! Copies of a file's metadata: owner, mode, times, extended attributes and with them ACLs.

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

/// The largest that Linux permits: XATTR_LIST_MAX and XATTR_SIZE_MAX, xattr(7).
const XATTR_MAX: usize = 64 << 10;

/// Copies owner, mode and extended attributes, as far as that is permitted: only root may change owners and set every
/// attribute.
pub fn copy_metadata(old: &File, new: &File) -> io::Result<()> {
    let (was, is) = (old.metadata()?, new.metadata()?);
    if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
        permitted(fchown(new, Some(was.uid()), Some(was.gid())))?;
    }
    new.set_permissions(Permissions::from_mode(was.mode() & 0o7777))?;
    // After the mode: setting the mode would reduce an ACL.
    copy_xattrs(old, new)
}

/// Copies access and modification time.
pub fn copy_times(old: &File, new: &File) -> io::Result<()> {
    let was = old.metadata()?;
    new.set_times(FileTimes::new().set_accessed(was.accessed()?).set_modified(was.modified()?))
}

fn permitted(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn copy_xattrs(old: &File, new: &File) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match flistxattr(old, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; XATTR_MAX];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Removed meanwhile, or not readable for this user: then it cannot be copied.
        let Ok(length) = fgetxattr(old, name, value.as_mut_slice()) else { continue };
        match fsetxattr(new, name, &value[..length], XattrFlags::empty()) {
            // Attributes of security modules are set by the kernel and cannot be set here.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

//! Where the histories of several hosts are: a directory, or a bucket where this program was built
//! with the feature `fleet`.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::disk::copies::CopyStore;
use crate::programs::exit::ExitError;

/// A bucket.
///
/// # Errors
/// Where a variable says what cannot be.
#[cfg(feature = "fleet")]
pub fn bucket(option: &str, name: &str, prefix: &str) -> Result<Arc<dyn CopyStore>, ExitError> {
    use crate::disk::copies::bucket::CopyBucket;

    let bucket = CopyBucket::new(name, prefix);
    let bucket = bucket.map_err(|error| {
        ExitError::usage(format_args!("{option} s3://{name}: {error}; see to the variables AWS_*"))
    });
    Ok(Arc::new(bucket?))
}

/// A bucket.
///
/// # Errors
/// Always: there are none in this program.
#[cfg(not(feature = "fleet"))]
pub fn bucket(option: &str, _: &str, _: &str) -> Result<Arc<dyn CopyStore>, ExitError> {
    Err(not_built(option))
}

/// What is not in this program.
#[cfg(not(feature = "fleet"))]
pub fn not_built(what: &str) -> ExitError {
    ExitError::usage(format_args!(
        "{what}: this program was built without it: build it with --features fleet"
    ))
}

/// What to do where a place cannot be asked, or written.
pub fn next_step(error: &io::Error, is_bucket: bool) -> &'static str {
    match (error.kind(), is_bucket) {
        (ErrorKind::NotFound, true) => "make that bucket, or name another one",
        (ErrorKind::PermissionDenied, true) => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of one who may list, read and write there"
        }
        (_, true) => {
            "see that AWS_ENDPOINT_URL, AWS_REGION and the access key are right, and that it answers; what is there \
             stays, and the next time goes on"
        }
        (ErrorKind::PermissionDenied, false) => "run this as one who may write there",
        (_, false) => "see to that directory; what is there stays, and the next time goes on",
    }
}

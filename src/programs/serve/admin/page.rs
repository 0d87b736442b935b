//! The page: one HTML document, which needs nothing from anywhere else.

use std::io;

use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS,
};

use crate::kernel::entropy;

/// The type of its content.
pub const HTML: &str = "text/html; charset=utf-8";
const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// The document, and the headers that keep others from using it: it runs its own script alone, asks
/// nobody but this server, and is in no frame.
///
/// # Errors
/// Where the system gives no random number.
pub fn page() -> io::Result<(String, [(HeaderName, HeaderValue); 3])> {
    let nonce = format!("{:032x}", u128::from_ne_bytes(entropy::octets()?));
    let text = PAGE.replace("{nonce}", &nonce).replace("{script}", SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).map_err(io::Error::other)?;
    Ok((
        text,
        [
            (CONTENT_SECURITY_POLICY, policy),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_nobody_else_and_has_a_nonce_of_its_own() {
        let (text, headers) = page().unwrap();
        let (other, _) = page().unwrap();
        assert_ne!(text, other);
        assert!(!text.contains("{nonce}") && !text.contains("{script}"));
        // A name of XML, which nobody asks.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("//cdn"));
        let policy = headers[0].1.to_str().unwrap();
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(text.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    }
}

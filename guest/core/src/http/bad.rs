//! Why a request is answered 400 whatever the rules say.

use thiserror::Error;

/// What is wrong with a request. The text names no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum BadRequest {
    /// The method is none that HTTP/1.1 servers take, or no token.
    #[error("the method is not one that can be asked for (methods are in upper case)")]
    Method,
    /// The request target has none of the forms of RFC 9112.
    #[error("the request target is neither a path nor a URL of `http` or `https`")]
    Target,
    /// A space, a control character or a byte that is not ASCII.
    #[error("the request target holds a space, a control character or a byte that is not allowed")]
    TargetCharacter,
    /// `#` in the request target.
    #[error("the request target holds a fragment (`#`)")]
    Fragment,
    /// `%00`.
    #[error("the path holds an encoded NUL")]
    PathCharacter,
    /// Normalising it once more would change it again.
    #[error("the path's normalised form would be normalised again, so it can be read in two ways")]
    NotFixed,
    /// `%2F` or `%5C`, where the mesh refuses them.
    #[error(
        "the path holds an encoded slash, which the mesh's `PathWithEscapedSlashesAction` refuses"
    )]
    EscapedSlash,
    /// The path can be read in several ways, and the mesh refuses that.
    #[error("the path can be read in several ways, which the mesh's `ambiguous_path` refuses")]
    Ambiguous,
    /// The authority has a character that no host name and port can have.
    #[error("the authority (`Host`) holds a character that is not allowed")]
    Authority,
    /// There is more than one `Host`.
    #[error("there is more than one `Host`")]
    SeveralHosts,
    /// Neither `http` nor `https`.
    #[error("the scheme is neither `http` nor `https`")]
    Scheme,
    /// The block of headers is cut off.
    #[error("the headers are not encoded as `wit/types.wit` says")]
    HeaderBlock,
    /// The name of a header is no token.
    #[error("the name of a header is not a token, or for HTTP/2 not in lower case")]
    HeaderName,
    /// A control character in a header's value.
    #[error("the value of a header holds a control character")]
    HeaderValue,
    /// HTTP/2 has no such header.
    #[error("HTTP/2 has no headers about the connection")]
    ConnectionHeader,
    /// `_` in a header's name, where the mesh refuses that.
    #[error(
        "the name of a header holds `_`, which the mesh's `HeadersWithUnderscoresAction` refuses"
    )]
    Underscore,
    /// More or larger than is judged.
    #[error("the request target or the headers are larger than can be judged")]
    TooLarge,
}

//! [`chain`]: how an error is told to people. PURE. What errors there are is each module's affair.

/// An error with everything that caused it, on one line: `can't read a: no such file`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    // Some crates end theirs with a line feed.
    causes
        .fold(error.to_string(), |text, cause| format!("{text}: {}", cause.to_string().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't {what}")]
    struct Failed {
        what: &'static str,
        source: Option<Box<Failed>>,
    }

    #[test]
    fn every_cause_is_told_once_and_without_line_feeds() {
        let deepest = Failed { what: "sync\n", source: None };
        let write = Failed { what: "write", source: Some(Box::new(deepest)) };
        let save = Failed { what: "save", source: Some(Box::new(write)) };
        assert_eq!(chain(&save), "can't save: can't write: can't sync");
    }
}

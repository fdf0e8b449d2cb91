//! What a call fails with: a code of gRPC and a sentence.

use std::fmt;

/// The codes of gRPC that CSI uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

const CODES: [Code; 16] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
];

impl Code {
    pub fn of_number(number: u32) -> Code {
        CODES.get(number as usize).copied().unwrap_or(Code::Unknown)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
}

pub type Result<T, E = Status> = std::result::Result<T, E>;

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Status {
        Status::new(Code::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<String>) -> Status {
        Status::new(Code::NotFound, message)
    }

    pub fn exists(message: impl Into<String>) -> Status {
        Status::new(Code::AlreadyExists, message)
    }

    pub fn precondition(message: impl Into<String>) -> Status {
        Status::new(Code::FailedPrecondition, message)
    }

    pub fn internal(message: impl Into<String>) -> Status {
        Status::new(Code::Internal, message)
    }

    pub fn is(&self, code: Code) -> bool {
        self.code == code
    }

    /// Puts what was being done in front of the message.
    pub fn context(self, doing: impl fmt::Display) -> Status {
        Status { message: format!("{doing}: {}", self.message), ..self }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.code)
    }
}

impl std::error::Error for Status {}

/// Returns the value of a field, which must not be empty.
pub fn required<'a>(text: &'a str, field: &str) -> Result<&'a str> {
    match text.is_empty() {
        true => Err(Status::invalid(format!("{field} is missing"))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_of_grpc() {
        for (number, code) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(Code::of_number(number as u32), *code);
        }
        assert_eq!(Code::of_number(16), Code::Unknown);
    }
}

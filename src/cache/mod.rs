//! Read cache: decoded frames in memory (later: frames as stored, on local disk).

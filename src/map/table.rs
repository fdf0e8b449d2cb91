//! Small tables under the checkpoint (states first), a page each: rows of bytes that their owner encodes.

use bytes::Bytes;

use crate::base::codec::{Reader, Writer};
use crate::base::{Error, Kind, Result};
use crate::frame::FRAME_MAX;

const FORMAT: u8 = 1;
/// Rows a page may have.
const ROWS_MAX: usize = 65_535;

/// A table's page: its kind (the owner's choice, checked when it is read) and rows. `Refused` when it doesn't fit a page.
pub fn encode_table(kind: u8, rows: &[Vec<u8>]) -> Result<Bytes> {
    let len = 4 + rows.iter().map(|row| row.len() + 4).sum::<usize>();
    if rows.len() > ROWS_MAX || len > FRAME_MAX {
        let why =
            format!("a volume's table of {} rows ({len} bytes) is too large: remove snapshots", rows.len());
        return Err(Error::new(Kind::Refused, why));
    }
    let mut w = Writer::with_capacity(len);
    w.u8(FORMAT).u8(kind).u16(rows.len() as u16);
    for row in rows {
        w.bytes(row);
    }
    Ok(w.buf.into())
}

/// A table's rows, as slices of its page.
pub fn decode_table(kind: u8, page: &Bytes) -> Result<Vec<Bytes>> {
    let parse = || {
        let mut r = Reader::new(page, "a table of a volume");
        let (format, found, count) = (r.u8()?, r.u8()?, r.u16()?);
        if (format, found) != (FORMAT, kind) {
            return Err(r.bad(&format!("it is of format {format} and kind {found}, not {FORMAT} and {kind}")));
        }
        let rows = (0..count).map(|_| Ok(page.slice_ref(r.bytes(FRAME_MAX)?))).collect::<Result<_>>()?;
        r.end()?;
        Ok(rows)
    };
    parse().map_err(|e| Error::new(Kind::Corrupt, e.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_and_limits() {
        let page = encode_table(7, &[b"ab".to_vec(), vec![]]).unwrap();
        assert_eq!(page, &b"\x01\x07\x02\0\x02\0\0\0ab\0\0\0\0"[..]);
        assert_eq!(decode_table(7, &page).unwrap(), [&b"ab"[..], b""]);
        assert!(decode_table(8, &page).unwrap_err().is(Kind::Corrupt));
        assert!(encode_table(7, &[vec![0; FRAME_MAX]]).unwrap_err().is(Kind::Refused));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(rows) = decode_table(1, &bytes.clone().into()) {
                let rows: Vec<_> = rows.iter().map(|r| r.to_vec()).collect();
                prop_assert_eq!(encode_table(1, &rows).unwrap(), bytes);
            }
        }
    }
}

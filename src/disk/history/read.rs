//! Reads a file of a history: the rows of one port by a few of its pages, those of clients one page
//! after another, or all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::Ipv6Net;
use parquet::bloom_filter::Sbbf;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::metadata::page_index::{PageIndexProvider, RowGroupPageIndex};
use parquet::file::metadata::{
    ColumnChunkMask, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::RowGroupReader;
use parquet::file::serialized_reader::SerializedRowGroupReader;
use parquet::file::statistics::Statistics;

use super::columns::{Column, HistoryRow, Kind, of_prefix, of_word};
use super::content::PieceContent;
use super::ports::{NotedPlace, NotedPorts};
use super::sum;
use super::write::failed;
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Beginning, Contradiction, Holding};
use crate::handoff::logged;
use crate::handoff::names::overlap;
use crate::handoff::naming::Naming;

/// Rows that are read at once.
const READ_ROWS: usize = 8192;
/// Octets at the end of a file that are read at once: what the file says of itself.
const FOOTER_OCTETS: usize = 64 << 10;

/// A file that is open.
pub(super) struct PieceFile {
    kind: Kind,
    path: PathBuf,
    file: Arc<PieceContent>,
    metadata: ParquetMetaData,
    /// What is known of the pages of some parts of it.
    pages: RefCell<BTreeMap<usize, PageIndex>>,
}

type PageIndex = Arc<dyn PageIndexProvider>;

/// Whose rows are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum WantedRows {
    All,
    /// Those that have the port still.
    Open,
    Clients(Ipv6Net),
}

impl PieceFile {
    pub(super) fn of(kind: Kind, path: PathBuf, file: PieceContent) -> io::Result<Self> {
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_OCTETS));
        let metadata = reader.parse_and_finish(&file).map_err(failed)?;
        let schema = kind.schema().map_err(failed)?;
        match metadata.file_metadata().schema() == &*schema {
            true => {
                Ok(Self { kind, path, file: Arc::new(file), metadata, pages: RefCell::default() })
            }
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its columns are not those of a history of this version",
            )),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was noted as it was written.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        let notes = self.metadata.file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == name)?.value.as_deref()
    }

    /// Fails where an octet of it is not as it was written.
    pub(super) fn verify(&self) -> io::Result<()> {
        // A copy is not written on.
        self.file.file().map_or(Ok(()), sum::verify)
    }

    /// Ports that were noted by that name; None where none were.
    pub(super) fn ports(&self, name: &str) -> io::Result<Option<NotedPorts>> {
        let place = self.note(name).and_then(NotedPlace::of_note);
        place.map(|place| place.read(&*self.file)).transpose()
    }

    /// Whether a port is among those; true where none were noted.
    pub(super) fn may_have(&self, name: &str, port: SocketAddrV4) -> io::Result<bool> {
        let place = self.note(name).and_then(NotedPlace::of_note);
        place.map_or(Ok(true), |place| place.has(&*self.file, port))
    }

    /// The rows of a port, in order. Without `clients`, their clients are not looked up: all have
    /// the unspecified address.
    pub(super) fn of_port(&self, port: SocketAddrV4, clients: bool) -> io::Result<Vec<HistoryRow>> {
        let text = port.ip().to_string();
        let mut found = Vec::new();
        for (number, group) in self.metadata.row_groups().iter().enumerate() {
            if !may_have(group, &text, port.port()) {
                continue;
            }
            let group = self.group(number, true)?;
            let Some(range) = group.range_of(&text, port.port())? else { continue };
            let mut rows = Rows::open(&group, clients)?;
            rows.skip(range.start)?;
            found.extend(rows.read(range.len())?);
        }
        Ok(found)
    }

    /// Gives `take` the wanted rows, in order.
    pub(super) fn scan(
        &self,
        wanted: WantedRows,
        mut take: impl FnMut(HistoryRow) -> io::Result<()>,
    ) -> io::Result<()> {
        for number in 0..self.metadata.num_row_groups() {
            match wanted {
                WantedRows::Clients(net) => {
                    let bloom = self.bloom(number, net)?;
                    let single = (net.prefix_len() == 128).then(|| net.addr());
                    let text = single.map(|client| client.to_string());
                    let may =
                        bloom.zip(text).is_none_or(|(bloom, text)| bloom.check(text.as_str()));
                    if may {
                        self.file.bring()?;
                        self.group(number, false)?.of_clients(net, &mut take)?;
                    }
                }
                WantedRows::All | WantedRows::Open => {
                    self.file.bring()?;
                    let group = self.group(number, false)?;
                    let is_open = matches!(wanted, WantedRows::Open);
                    group.all(is_open, &mut take)?;
                }
            }
        }
        Ok(())
    }

    /// The rows of an address of the pool, in order: of a file of names.
    pub(super) fn of_pool(&self, pool: Ipv4Addr) -> io::Result<Vec<Naming>> {
        let text = pool.to_string();
        let mut found = Vec::new();
        for number in 0..self.metadata.num_row_groups() {
            let group = self.group(number, true)?;
            let (mut rows, mut at) = (Rows::open(&group, true)?, 0);
            for range in group.pages_of(&text) {
                rows.skip(range.start - at)?;
                at = range.end;
                let names = rows.read(range.len())?.into_iter().filter_map(|row| row.name());
                found.extend(names.filter(|name| name.pool == pool));
            }
        }
        Ok(found)
    }

    fn bloom(&self, number: usize, net: Ipv6Net) -> io::Result<Option<Sbbf>> {
        // A name may be of a network that the client is in.
        let is_single = net.prefix_len() == 128 && self.kind != Kind::Names;
        let Some(place) = self.kind.place(Column::Client).filter(|_| is_single) else {
            return Ok(None);
        };
        let column = self.metadata.row_group(number).column(place);
        Sbbf::read_from_column_chunk(column, &*self.file).map_err(failed)
    }

    /// A part of the file, with what is known of its pages where it is asked for.
    fn group(&self, number: usize, pages: bool) -> io::Result<RowGroup<'_>> {
        let metadata = self.metadata.row_group(number);
        let index = if pages { self.pages(number)? } else { None };
        let index = || RowGroupPageIndex::new(number, index.clone());
        let properties = Arc::new(ReaderProperties::builder().build());
        let file = Arc::clone(&self.file);
        let reader = SerializedRowGroupReader::new(file, metadata, index(), properties);
        Ok(RowGroup { kind: self.kind, metadata, pages: index(), reader: reader.map_err(failed)? })
    }

    /// What is known of the pages of a part.
    fn pages(&self, number: usize) -> io::Result<Option<PageIndex>> {
        let mut known = self.pages.borrow_mut();
        if let Some(pages) = known.get(&number) {
            return Ok(Some(Arc::clone(pages)));
        }
        let mask = ColumnChunkMask::row_groups([number]);
        let reader = ParquetMetaDataReader::new_with_metadata(self.metadata.clone());
        let mut reader =
            reader.with_page_index_mask(mask).with_page_index_policy(PageIndexPolicy::Required);
        reader.read_page_indexes(&*self.file).map_err(failed)?;
        let pages = reader.finish().map_err(failed)?.page_index().cloned();
        known.extend(pages.clone().map(|pages| (number, pages)));
        Ok(pages)
    }
}

/// Whether a part of a file may have rows of a port.
fn may_have(group: &RowGroupMetaData, nat64: &str, port: u16) -> bool {
    let within = |place: usize, is_within: &dyn Fn(&Statistics) -> Option<bool>| {
        group.column(place).statistics().and_then(is_within).unwrap_or(true)
    };
    let nat64 = nat64.as_bytes();
    within(0, &|known| Some((known.min_bytes_opt()?..=known.max_bytes_opt()?).contains(&nat64)))
        && within(1, &|known| {
            let Statistics::Int32(known) = known else { return None };
            Some((*known.min_opt()?..=*known.max_opt()?).contains(&i32::from(port)))
        })
}

struct RowGroup<'f> {
    kind: Kind,
    metadata: &'f RowGroupMetaData,
    pages: RowGroupPageIndex,
    reader: SerializedRowGroupReader<'f, PieceContent>,
}

impl RowGroup<'_> {
    fn rows(&self) -> usize {
        usize::try_from(self.metadata.num_rows()).unwrap_or(0)
    }

    fn column<T: DataType>(&self, column: Column) -> io::Result<Option<ColumnReaderImpl<T>>> {
        let Some(place) = self.kind.place(column) else { return Ok(None) };
        let reader = self.reader.get_column_reader(place).map_err(failed)?;
        Ok(Some(get_typed_column_reader::<T>(reader)))
    }

    /// Which rows are those of a port. They stand together.
    fn range_of(&self, nat64: &str, port: u16) -> io::Result<Option<Range<usize>>> {
        let mut nat64s = ColumnValues::<ByteArrayType>::of(self, Column::Nat64)?;
        let mut ports = ColumnValues::<Int32Type>::of(self, Column::Port)?;
        let mut found: Option<Range<usize>> = None;
        let mut at = 0;
        for range in self.candidates(nat64, port) {
            nat64s.skip(range.start - at)?;
            ports.skip(range.start - at)?;
            at = range.end;
            let there = nat64s.read(range.len())?.into_iter().zip(ports.read(range.len())?);
            for (row, (there_nat64, there_port)) in range.zip(there) {
                let is_nat64 = there_nat64.is_some_and(|there| there.data() == nat64.as_bytes());
                if is_nat64 && there_port == Some(port.into()) {
                    let begin = found.as_ref().map_or(row, |found| found.start);
                    found = Some(begin..row + 1);
                }
            }
        }
        Ok(found)
    }

    /// Rows of pages that may be those of a port.
    fn candidates(&self, nat64: &str, port: u16) -> Vec<Range<usize>> {
        let (of_nat64, port) = (self.pages_of(nat64), i32::from(port));
        let of_port = self.pages_with(1, |index, page| match index {
            ColumnIndexMetaData::INT32(index) => {
                let (min, max) = (index.min_value(page), index.max_value(page));
                min.zip(max).is_none_or(|(min, max)| (*min..=*max).contains(&port))
            }
            _ => true,
        });
        let both = of_nat64.iter().flat_map(|one| {
            let overlap = |other: &Range<usize>| one.start.max(other.start)..one.end.min(other.end);
            of_port.iter().map(overlap).filter(|rows| !rows.is_empty())
        });
        both.collect()
    }

    /// Rows of pages that may be those of a NAT64, or of an address of the pool.
    fn pages_of(&self, address: &str) -> Vec<Range<usize>> {
        let address = address.as_bytes();
        self.pages_with(0, |index, page| match index {
            ColumnIndexMetaData::BYTE_ARRAY(index) => {
                let (min, max) = (index.min_value(page), index.max_value(page));
                min.zip(max).is_none_or(|(min, max)| (min..=max).contains(&address))
            }
            _ => true,
        })
    }

    /// The rows of the pages of a column for which `may` is true.
    fn pages_with(
        &self,
        place: usize,
        may: impl Fn(&ColumnIndexMetaData, usize) -> bool,
    ) -> Vec<Range<usize>> {
        let rows = self.rows();
        let (Some(index), Some(pages)) =
            (self.pages.column_index(place), self.pages.page_locations(place))
        else {
            return std::iter::once(0..rows).collect();
        };
        let first = |page: usize| {
            let row = pages.get(page).map(|page| page.first_row_index);
            row.map_or(rows, |row| usize::try_from(row).unwrap_or(rows))
        };
        let with = (0..pages.len()).filter(|&page| may(index, page));
        with.map(|page| first(page)..first(page + 1)).collect()
    }

    fn of_clients(
        &self,
        net: Ipv6Net,
        take: &mut impl FnMut(HistoryRow) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut clients = ColumnValues::<ByteArrayType>::of(self, Column::Client)?;
        // The other columns, and up to which row they were read.
        let mut rows: Option<(Rows, usize)> = None;
        let all = self.rows();
        let single = (net.prefix_len() == 128).then(|| net.addr().to_string());
        let of = |text: &ByteArray| match &single {
            _ if self.kind == Kind::Names => {
                let client = logged::client_of(text.data());
                client.filter(|client| overlap(*client, net)).map(|client| client.addr())
            }
            Some(single) => (text.data() == single.as_bytes()).then(|| net.addr()),
            None => logged::ipv6_of(text.data()).filter(|client| net.contains(client)),
        };
        for begin in (0..all).step_by(READ_ROWS) {
            let texts = clients.read(READ_ROWS.min(all - begin))?;
            for (row, text) in (begin..).zip(&texts) {
                let Some(client) = text.as_ref().and_then(of) else { continue };
                let (rows, at) = match &mut rows {
                    Some(rows) => rows,
                    none => none.insert((Rows::open(self, self.kind == Kind::Names)?, 0)),
                };
                rows.skip(row - *at)?;
                *at = row + 1;
                rows.read(1)?.into_iter().try_for_each(|found| take(found.of(client)))?;
            }
        }
        Ok(())
    }

    fn all(
        &self,
        is_open: bool,
        take: &mut impl FnMut(HistoryRow) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rows = Rows::open(self, true)?;
        let mut left = self.rows();
        while left > 0 {
            let count = left.min(READ_ROWS);
            left -= count;
            for row in rows.read(count)? {
                if !is_open || row.time(Column::Until).is_none() {
                    take(row)?;
                }
            }
        }
        Ok(())
    }
}

/// A column that is read, if the file has it.
struct ColumnValues<T: DataType> {
    reader: Option<ColumnReaderImpl<T>>,
    /// Whether there may be no value.
    is_optional: bool,
}

impl<T: DataType> ColumnValues<T> {
    fn of(group: &RowGroup<'_>, column: Column) -> io::Result<Self> {
        let place = group.kind.place(column);
        let descriptor = place.map(|place| group.metadata.column(place).column_descr());
        let is_optional = descriptor.is_some_and(|column| column.max_def_level() > 0);
        Ok(Self { reader: group.column(column)?, is_optional })
    }

    fn skip(&mut self, rows: usize) -> io::Result<()> {
        let skipped = self.reader.as_mut().map(|reader| reader.skip_records(rows)).transpose();
        match skipped.map_err(failed)? {
            Some(skipped) if skipped != rows => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Values for so many rows.
    fn read(&mut self, rows: usize) -> io::Result<Vec<Option<T::T>>> {
        let Some(reader) = &mut self.reader else { return Ok(vec![None; rows]) };
        let (mut values, mut levels) = (Vec::with_capacity(rows), Vec::new());
        let (read, _, _) =
            reader.read_records(rows, Some(&mut levels), None, &mut values).map_err(failed)?;
        if read != rows {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.is_optional {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels.into_iter().map(|level| if level > 0 { values.next() } else { None }).collect())
    }
}

/// Reads rows.
struct Rows {
    kind: Kind,
    nat64: ColumnValues<ByteArrayType>,
    port: ColumnValues<Int32Type>,
    client: Option<ColumnValues<ByteArrayType>>,
    client_port: ColumnValues<Int32Type>,
    local: ColumnValues<ByteArrayType>,
    prefix: ColumnValues<ByteArrayType>,
    since: ColumnValues<Int64Type>,
    until: ColumnValues<Int64Type>,
    perhaps_until: ColumnValues<Int64Type>,
    ended: ColumnValues<ByteArrayType>,
}

impl Rows {
    fn open(group: &RowGroup<'_>, clients: bool) -> io::Result<Self> {
        let since = group.kind.time();
        let client = clients.then(|| ColumnValues::of(group, Column::Client)).transpose()?;
        Ok(Self {
            kind: group.kind,
            nat64: ColumnValues::of(group, Column::Nat64)?,
            port: ColumnValues::of(group, Column::Port)?,
            client,
            client_port: ColumnValues::of(group, Column::ClientPort)?,
            local: ColumnValues::of(group, Column::Local)?,
            prefix: ColumnValues::of(group, Column::Prefix)?,
            since: ColumnValues::of(group, since)?,
            until: ColumnValues::of(group, Column::Until)?,
            perhaps_until: ColumnValues::of(group, Column::PerhapsUntil)?,
            ended: ColumnValues::of(group, Column::Ended)?,
        })
    }

    fn skip(&mut self, rows: usize) -> io::Result<()> {
        self.nat64.skip(rows)?;
        self.port.skip(rows)?;
        self.client.as_mut().map_or(Ok(()), |client| client.skip(rows))?;
        self.client_port.skip(rows)?;
        self.local.skip(rows)?;
        self.prefix.skip(rows)?;
        self.since.skip(rows)?;
        self.until.skip(rows)?;
        self.perhaps_until.skip(rows)?;
        self.ended.skip(rows)
    }

    fn read(&mut self, count: usize) -> io::Result<Vec<HistoryRow>> {
        match self.kind {
            Kind::Names => return self.read_names(count),
            Kind::Begun => return self.read_begun(count),
            Kind::Held | Kind::Conflicts => {}
        }
        let mut nat64 = Known::<Ipv4Addr>::default();
        let mut local = Known::<Ipv4Addr>::default();
        let mut client = Known::<Ipv6Addr>::default();
        let nat64s = self.nat64.read(count)?;
        let ports = self.port.read(count)?;
        let clients = match &mut self.client {
            Some(clients) => clients.read(count)?,
            None => vec![None; count],
        };
        let client_ports = self.client_port.read(count)?;
        let locals = self.local.read(count)?;
        let prefixes = self.prefix.read(count)?;
        let since = self.since.read(count)?;
        let until = self.until.read(count)?;
        let perhaps_until = self.perhaps_until.read(count)?;
        let ended = self.ended.read(count)?;
        let of_text = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let mut rows = Vec::with_capacity(count);
        for row in 0..count {
            let ip = nat64.of(&nat64s[row], of_text)?.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let nat64 = SocketAddrV4::new(ip, number(ports[row])?);
            let client = client.of(&clients[row], logged::ipv6_of)?;
            let client = client.unwrap_or(Ipv6Addr::UNSPECIFIED);
            let client_port = number(client_ports[row])?;
            let local = local.of(&locals[row], of_text)?;
            let from = time(since[row]);
            rows.push(match self.kind {
                Kind::Held => HistoryRow::Held(Holding {
                    nat64,
                    client,
                    client_port,
                    local,
                    prefix: value(&prefixes[row], of_prefix)?,
                    from,
                    until: time(until[row]),
                    perhaps_until: time(perhaps_until[row]),
                    ended: value(&ended[row], of_word)?,
                }),
                Kind::Conflicts | Kind::Names | Kind::Begun => {
                    let at = from.unwrap_or_default();
                    HistoryRow::Conflict(Contradiction { at, nat64, client, client_port, local })
                }
            });
        }
        Ok(rows)
    }

    fn read_begun(&mut self, count: usize) -> io::Result<Vec<HistoryRow>> {
        let (mut nat64, mut local) = (Known::<Ipv4Addr>::default(), Known::<Ipv4Addr>::default());
        let (nat64s, locals) = (self.nat64.read(count)?, self.local.read(count)?);
        let times = self.since.read(count)?;
        let of_text = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let row = |row: usize| -> io::Result<HistoryRow> {
            let nat64 = nat64.of(&nat64s[row], of_text)?.ok_or(io::ErrorKind::InvalidData)?;
            let local = local.of(&locals[row], of_text)?;
            let at = time(times[row]).ok_or(io::ErrorKind::InvalidData)?;
            Ok(HistoryRow::Begun(Beginning { at, nat64, local }))
        };
        (0..count).map(row).collect()
    }

    fn read_names(&mut self, count: usize) -> io::Result<Vec<HistoryRow>> {
        let mut pool = Known::<Ipv4Addr>::default();
        let pools = self.nat64.read(count)?;
        let clients = match &mut self.client {
            Some(clients) => clients.read(count)?,
            None => vec![None; count],
        };
        let since = self.since.read(count)?;
        let until = self.until.read(count)?;
        let perhaps_until = self.perhaps_until.read(count)?;
        let of_text = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let row = |row: usize| -> io::Result<HistoryRow> {
            let pool = pool.of(&pools[row], of_text)?.ok_or(io::ErrorKind::InvalidData)?;
            let client = value(&clients[row], logged::client_of)?;
            Ok(HistoryRow::Name(Naming {
                pool,
                client: client.ok_or(io::ErrorKind::InvalidData)?,
                from: time(since[row]),
                until: time(until[row]),
                perhaps_until: time(perhaps_until[row]),
            }))
        };
        (0..count).map(row).collect()
    }
}

/// The last text of a column, and what it means: mostly the next one is the same.
struct Known<T> {
    text: Option<ByteArray>,
    value: Option<T>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { text: None, value: None }
    }
}

impl<T: Copy> Known<T> {
    fn of(
        &mut self,
        text: &Option<ByteArray>,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let Some(text) = text else { return Ok(None) };
        if self.text.as_ref() != Some(text) {
            self.value = Some(parse(text.data()).ok_or(io::ErrorKind::InvalidData)?);
            self.text = Some(text.clone());
        }
        Ok(self.value)
    }
}

fn value<T>(text: &Option<ByteArray>, parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    Ok(Some(parse(text.data()).ok_or(io::ErrorKind::InvalidData)?))
}

fn number(value: Option<i32>) -> io::Result<u16> {
    let value = value.and_then(|value| u16::try_from(value).ok());
    value.ok_or(io::ErrorKind::InvalidData.into())
}

fn time(value: Option<i64>) -> Option<Timestamp> {
    value.map(|micros| Timestamp::from_micros(micros.max(0).cast_unsigned()))
}

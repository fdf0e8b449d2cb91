//! S3's verbs over the bucket.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::BUCKET;
use super::objects::{About, Conditions, Contents, Object, Objects, Quirks, Upload, now, refusal, strong};

pub struct Service(pub Arc<Objects>);

type Out<T> = S3Result<S3Response<T>>;

fn done<T>(out: T) -> Out<T> {
    Ok(S3Response::new(out))
}

/// Makes an answer that also has the number of an object's tags.
fn counted<T>(out: T, tags: Option<usize>) -> Out<T> {
    let mut response = S3Response::new(out);
    if let Some(tags) = tags {
        response.headers.insert("x-amz-tagging-count", tags.into());
    }
    Ok(response)
}

/// Collects what a request says of the object that it makes.
macro_rules! about {
    ($input:expr) => {
        About {
            metadata: $input.metadata,
            content_type: $input.content_type,
            content_encoding: $input.content_encoding,
            cache_control: $input.cache_control,
            content_disposition: $input.content_disposition,
            content_language: $input.content_language,
            expires: $input.expires,
            storage_class: $input.storage_class,
            tags: $input.tagging,
        }
    };
}

/// Makes an answer that says what an object carries.
macro_rules! shown {
    ($output:ident, $quirks:expr, $object:expr) => {{
        let (quirks, about) = ($quirks, $object.about);
        $output {
            e_tag: Some(quirks.etag(&$object.etag)),
            last_modified: (!quirks.no_times).then(|| $object.modified.into()),
            metadata: about.metadata,
            content_type: about.content_type,
            content_encoding: about.content_encoding,
            cache_control: about.cache_control,
            content_disposition: about.content_disposition,
            content_language: about.content_language,
            expires: about.expires,
            storage_class: about.storage_class,
            ..Default::default()
        }
    }};
}

impl Service {
    fn summed(&self, summed: bool) -> S3Result<()> {
        match self.0.quirks.refuses_checksums {
            Some(no) if summed => Err(refusal(no)),
            _ => Ok(()),
        }
    }

    fn tags_told(&self, object: &Object) -> Option<usize> {
        let tags = object.about.tags.as_ref().filter(|_| self.0.quirks.tells_tags)?;
        Some(tags.split('&').count())
    }

    fn in_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == BUCKET && !self.0.is_gone() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

async fn all_of(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut out = BytesMut::new();
    let Some(mut body) = body else { return Ok(out.freeze()) };
    while let Some(piece) = body.try_next().await.map_err(|e| s3_error!(IncompleteBody, "{e}"))? {
        out.extend_from_slice(&piece);
    }
    Ok(out.freeze())
}

fn header<T>(request: &S3Request<T>, name: &str) -> Option<String> {
    request.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn conditions<T>(request: &S3Request<T>) -> Conditions {
    let parse = |text: &String| ETagCondition::parse_http_header(text.as_bytes()).ok();
    let bare = |text: &String| Some(ETagCondition::ETag(strong(text)));
    let if_match_text = header(request, "if-match");
    Conditions {
        if_match: if_match_text.as_ref().and_then(|text| parse(text).or_else(|| bare(text))),
        if_none_match: header(request, "if-none-match").as_ref().and_then(parse),
        if_match_text,
    }
}

fn source_of(source: &CopySource) -> S3Result<&str> {
    match source {
        CopySource::Bucket { bucket, key, .. } if **bucket == *BUCKET => Ok(key),
        _ => Err(s3_error!(NoSuchBucket)),
    }
}

/// Cuts out the range `bytes=5-9`, which must lie within the object.
fn part_of(body: &Bytes, range: Option<&str>) -> S3Result<Bytes> {
    let Some(range) = range else { return Ok(body.clone()) };
    let ends = range.strip_prefix("bytes=").and_then(|r| r.split_once('-'));
    let (from, to) = ends.ok_or_else(|| s3_error!(InvalidArgument))?;
    match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) if from <= to && to < body.len() => Ok(body.slice(from..=to)),
        _ => Err(s3_error!(InvalidRange)),
    }
}

/// One page of names, as S3 pages them.
struct Listing {
    objects: Vec<s3s::dto::Object>,
    groups: Vec<CommonPrefix>,
    next: Option<String>,
}

/// Prefix of a token that goes on where a page without names was.
const AGAIN: &str = "again:";

fn list(contents: &Contents, input: &ListObjectsV2Input, quirks: Quirks) -> Listing {
    let as_tree = quirks.lists_as_tree;
    let prefix = input.prefix.clone().unwrap_or_default();
    let max = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
    let again = input.continuation_token.as_deref().and_then(|token| token.strip_prefix(AGAIN));
    let token = input.continuation_token.clone().filter(|_| again.is_none());
    let start = again.map(str::to_owned).or(input.start_after.clone());
    if quirks.empty_first_pages && input.continuation_token.is_none() {
        let next = Some(format!("{AGAIN}{}", start.unwrap_or_default()));
        return Listing { objects: vec![], groups: vec![], next };
    }
    let after = token.clone().or(start).unwrap_or_default();
    let encoded = input.encoding_type.is_some();
    let show = |name: &str| match encoded {
        true => utf8_percent_encode(name, NON_ALPHANUMERIC).to_string(),
        false => name.to_owned(),
    };
    let mut out = Listing { objects: vec![], groups: vec![], next: None };
    let mut last = String::new();
    let place = |name: &str| if as_tree { name.replace('/', "\0") } else { name.to_owned() };
    let mut names: Vec<_> = contents.objects.range(prefix.clone()..).collect();
    names.retain(|(key, _)| key.starts_with(&prefix));
    names.sort_by_key(|(key, _)| place(key));
    for (key, object) in names {
        let tail = &key[prefix.len()..];
        let delimiter = input.delimiter.as_deref().filter(|d| !d.is_empty());
        let group = delimiter.and_then(|d| tail.find(d).map(|at| &key[..prefix.len() + at + d.len()]));
        let ended = token.as_deref();
        let is_seen = group.is_some_and(|group| group == last || Some(group) == ended);
        // As S3 does: keys behind `after` still show the group that they are in.
        if place(key) <= place(&after) || is_seen {
            continue;
        }
        if out.objects.len() + out.groups.len() == max {
            out.next = Some(last);
            return out;
        }
        last = group.unwrap_or(key).to_owned();
        match group {
            Some(group) => out.groups.push(CommonPrefix { prefix: Some(show(group)) }),
            None => out.objects.push(s3s::dto::Object {
                key: Some(show(key)),
                size: (!quirks.lists_names_only).then_some(object.body.len() as i64),
                e_tag: (!quirks.lists_names_only).then(|| quirks.etag(&object.etag)),
                last_modified: (!quirks.no_times).then(|| object.modified.into()),
                storage_class: object.about.storage_class.as_ref().map(|c| c.as_str().to_owned().into()),
                ..Default::default()
            }),
        }
    }
    out
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> Out<PutObjectOutput> {
        self.in_bucket(&request.input.bucket)?;
        self.summed(request.input.checksum_crc32.is_some())?;
        let conditions = conditions(&request);
        let body = all_of(request.input.body.take()).await?;
        let input = request.input;
        let about = about!(input);
        let mut object = Object::new(body, about);
        if self.0.quirks.etag_of_second {
            object = object.named_by_second();
        }
        let bare = self.0.quirks.no_etag_of_markers && input.key.ends_with('/');
        let e_tag = (!bare).then(|| self.0.quirks.etag(&object.etag));
        let conditions = match self.0.quirks.races {
            None => conditions,
            Some(gap) => {
                self.0.judge(&input.key, &conditions)?;
                #[allow(clippy::disallowed_methods)] // the server's time is its own
                tokio::time::sleep(gap).await;
                Conditions::default()
            }
        };
        self.0.put(input.key, object, &conditions)?;
        done(PutObjectOutput { e_tag, ..Default::default() })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Out<GetObjectOutput> {
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let object = self.0.get(&input.key)?;
        let size = object.body.len() as u64;
        let (range, content_range) = match input.range.filter(|_| !self.0.quirks.ignores_ranges) {
            None => (0..size, None),
            Some(range) => {
                let range = range.check(size)?;
                if range.is_empty() {
                    return Err(s3_error!(InvalidRange));
                }
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (range, Some(text))
            }
        };
        let body = object.body.slice(range.start as usize..range.end as usize);
        let (told, tags) = (!self.0.quirks.no_lengths, self.tags_told(&object));
        let length = told.then_some(body.len() as i64);
        let body = match told {
            true => StreamingBlob::from(s3s::Body::from(body)),
            false => {
                let pieces = futures::stream::iter([Ok::<_, std::io::Error>(body)]);
                StreamingBlob::wrap(pieces)
            }
        };
        let shown = shown!(GetObjectOutput, self.0.quirks, object);
        counted(GetObjectOutput { content_length: length, body: Some(body), content_range, ..shown }, tags)
    }

    async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> Out<GetObjectTaggingOutput> {
        self.in_bucket(&request.input.bucket)?;
        if self.0.quirks.no_tags {
            return Err(s3_error!(NotImplemented));
        }
        let tags = self.0.get(&request.input.key)?.about.tags.unwrap_or_default();
        let one = |tag: &str| {
            let (key, value) = tag.split_once('=').unwrap();
            let text =
                |t: &str| Some(percent_encoding::percent_decode_str(t).decode_utf8().unwrap().into_owned());
            Tag { key: text(key), value: text(value) }
        };
        let tag_set = tags.split('&').filter(|tag| !tag.is_empty()).map(one).collect();
        done(GetObjectTaggingOutput { tag_set, version_id: None })
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Out<HeadObjectOutput> {
        self.in_bucket(&request.input.bucket)?;
        let object = self.0.get(&request.input.key)?;
        let tags = self.tags_told(&object);
        let content_length = (!self.0.quirks.no_lengths).then_some(object.body.len() as i64);
        counted(HeadObjectOutput { content_length, ..shown!(HeadObjectOutput, self.0.quirks, object) }, tags)
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Out<DeleteObjectOutput> {
        self.in_bucket(&request.input.bucket)?;
        self.0.with(|contents| {
            contents.objects.remove(&request.input.key);
            done(DeleteObjectOutput::default())
        })
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Out<DeleteObjectsOutput> {
        self.in_bucket(&request.input.bucket)?;
        if self.0.quirks.no_batch_delete {
            return Err(s3_error!(NotImplemented));
        }
        if request.input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        self.0.with(|contents| {
            for object in &request.input.delete.objects {
                contents.objects.remove(&object.key);
            }
            done(DeleteObjectsOutput::default())
        })
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Out<ListObjectsV2Output> {
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let page = self.0.with(|contents| Ok(list(contents, &input, self.0.quirks)))?;
        done(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: match input.encoding_type.is_some() {
                true => input.prefix.map(|p| utf8_percent_encode(&p, NON_ALPHANUMERIC).to_string()),
                false => input.prefix,
            },
            key_count: Some((page.objects.len() + page.groups.len()) as i32),
            is_truncated: (!self.0.quirks.no_truncation_told).then_some(page.next.is_some()),
            next_continuation_token: page.next.filter(|_| !self.0.quirks.no_truncation_told),
            contents: Some(page.objects),
            common_prefixes: Some(page.groups),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Out<CopyObjectOutput> {
        // Its input has no conditions on the destination: they are read from the headers.
        let mut conditions = conditions(&request);
        let (input, quirks) = (request.input, self.0.quirks);
        self.in_bucket(&input.bucket)?;
        if let Some(no) = quirks.no_copies {
            return Err(refusal(no));
        }
        if quirks.copies_ignore_conditions {
            conditions = Conditions::default();
        }
        let source = source_of(&input.copy_source)?;
        if self.0.quirks.copies_no_markers && source.ends_with('/') {
            return Err(s3_error!(NoSuchKey));
        }
        let mut object = self.0.get(source)?;
        object.check_source(input.copy_source_if_match.as_ref(), self.0.quirks)?;
        if input.metadata_directive.is_some_and(|d| d.as_str() == "REPLACE") {
            // The tags are the source's, unless another directive says otherwise.
            let tags = object.about.tags.take();
            object.about = About { tags, ..about!(input) };
        } else {
            object.about.storage_class = input.storage_class;
        }
        object.modified = now();
        let result = CopyObjectResult { e_tag: Some(quirks.etag(&object.etag)), ..Default::default() };
        self.0.put(input.key, object, &conditions)?;
        done(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Out<CreateMultipartUploadOutput> {
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let id = self.0.new_upload();
        self.summed(input.checksum_algorithm.is_some())?;
        let about = about!(input);
        let upload = Upload { key: input.key, about, parts: Default::default() };
        self.0.with(|contents| Ok(contents.uploads.insert(id.clone(), upload)))?;
        done(CreateMultipartUploadOutput { upload_id: Some(id), ..Default::default() })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Out<UploadPartOutput> {
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        self.summed(input.checksum_crc32.is_some())?;
        let body = all_of(input.body).await?;
        let etag = self.0.put_part(&input.key, &input.upload_id, input.part_number, body)?;
        done(UploadPartOutput { e_tag: Some(strong(&etag)), ..Default::default() })
    }

    async fn upload_part_copy(&self, request: S3Request<UploadPartCopyInput>) -> Out<UploadPartCopyOutput> {
        if self.0.quirks.needs_length && header(&request, "content-length").is_none() {
            return Err(refusal((411, "MissingContentLength")));
        }
        if let Some(no) = self.0.quirks.no_part_copies {
            return Err(refusal(no));
        }
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let source = self.0.get(source_of(&input.copy_source)?)?;
        source.check_source(input.copy_source_if_match.as_ref(), self.0.quirks)?;
        let body = part_of(&source.body, input.copy_source_range.as_deref())?;
        let etag = self.0.put_part(&input.key, &input.upload_id, input.part_number, body)?;
        let result = CopyPartResult { e_tag: Some(strong(&etag)), ..Default::default() };
        done(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Out<CompleteMultipartUploadOutput> {
        let conditions = conditions(&request);
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let parts = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
        let name = |p: CompletedPart| (p.part_number.unwrap_or(0), p.e_tag.map(|e| e.value().to_owned()));
        let wanted: Vec<_> = parts.into_iter().map(name).map(|(n, e)| (n, e.unwrap_or_default())).collect();
        let etag = self.0.complete(&input.key, &input.upload_id, &wanted, &conditions)?;
        let (bucket, key) = (Some(input.bucket), Some(input.key));
        let conditional = conditions.if_match.is_some() || conditions.if_none_match.is_some();
        let empty = self.0.quirks.empty_etag_of_completions && conditional;
        let e_tag = Some(if empty { strong("") } else { self.0.quirks.etag(&etag) });
        done(CompleteMultipartUploadOutput { bucket, key, e_tag, ..Default::default() })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Out<AbortMultipartUploadOutput> {
        self.in_bucket(&request.input.bucket)?;
        self.0.with(|contents| match contents.uploads.remove(&request.input.upload_id) {
            Some(_) => done(AbortMultipartUploadOutput::default()),
            None => Err(s3_error!(NoSuchUpload)),
        })
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Out<ListMultipartUploadsOutput> {
        self.in_bucket(&request.input.bucket)?;
        let prefix = request.input.prefix.unwrap_or_default();
        let show = |(id, upload): (&String, &Upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            ..Default::default()
        };
        let uploads = self.0.with(|contents| {
            let below = contents.uploads.iter().filter(|(_, u)| u.key.starts_with(&prefix));
            Ok(below.map(show).collect())
        })?;
        let is_truncated = Some(false);
        let (bucket, prefix) = (Some(request.input.bucket), Some(prefix));
        done(ListMultipartUploadsOutput {
            bucket,
            prefix,
            uploads: Some(uploads),
            is_truncated,
            ..Default::default()
        })
    }
}

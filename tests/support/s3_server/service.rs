//! S3's verbs over the bucket.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::BUCKET;
use super::objects::{About, Conditions, Contents, Object, Objects, Upload, now, strong};

pub struct Service(pub Arc<Objects>);

type Out<T> = S3Result<S3Response<T>>;

fn done<T>(out: T) -> Out<T> {
    Ok(S3Response::new(out))
}

impl Service {
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

/// `bytes=5-9`, which must lie within the object.
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

fn list(contents: &Contents, input: &ListObjectsV2Input, as_tree: bool) -> Listing {
    let prefix = input.prefix.clone().unwrap_or_default();
    let max = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
    let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
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
        let ended = input.continuation_token.as_deref();
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
                size: Some(object.body.len() as i64),
                e_tag: Some(strong(&object.etag)),
                last_modified: Some(object.modified.into()),
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
        if self.0.quirks.refuses_checksums && request.input.checksum_crc32.is_some() {
            return Err(s3_error!(InvalidRequest, "no checksums here"));
        }
        let conditions = conditions(&request);
        let body = all_of(request.input.body.take()).await?;
        let input = request.input;
        let about = About {
            metadata: input.metadata,
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            cache_control: input.cache_control,
        };
        let object = Object::new(body, about);
        let bare = self.0.quirks.no_etag_of_markers && input.key.ends_with('/');
        let e_tag = (!bare).then(|| strong(&object.etag));
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
        done(GetObjectOutput {
            content_length: Some(body.len() as i64),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            content_range,
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: object.about.metadata,
            content_type: object.about.content_type,
            ..Default::default()
        })
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Out<HeadObjectOutput> {
        self.in_bucket(&request.input.bucket)?;
        let object = self.0.get(&request.input.key)?;
        done(HeadObjectOutput {
            content_length: Some(object.body.len() as i64),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: object.about.metadata,
            content_type: object.about.content_type,
            content_encoding: object.about.content_encoding,
            cache_control: object.about.cache_control,
            ..Default::default()
        })
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
        let page = self.0.with(|contents| Ok(list(contents, &input, self.0.quirks.lists_as_tree)))?;
        done(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: match input.encoding_type.is_some() {
                true => input.prefix.map(|p| utf8_percent_encode(&p, NON_ALPHANUMERIC).to_string()),
                false => input.prefix,
            },
            key_count: Some((page.objects.len() + page.groups.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            contents: Some(page.objects),
            common_prefixes: Some(page.groups),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Out<CopyObjectOutput> {
        // Its input has no conditions on the destination: they are read from the headers.
        let conditions = conditions(&request);
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let source = source_of(&input.copy_source)?;
        if self.0.quirks.copies_no_markers && source.ends_with('/') {
            return Err(s3_error!(NoSuchKey));
        }
        let mut object = self.0.get(source)?;
        object.check_source(input.copy_source_if_match.as_ref(), self.0.quirks)?;
        if input.metadata_directive.is_some_and(|d| d.as_str() == "REPLACE") {
            object.about = About {
                metadata: input.metadata,
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                cache_control: input.cache_control,
            };
        }
        object.modified = now();
        let result = CopyObjectResult { e_tag: Some(strong(&object.etag)), ..Default::default() };
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
        let about = About { metadata: input.metadata, content_type: input.content_type, ..About::default() };
        let upload = Upload { key: input.key, about, parts: Default::default() };
        self.0.with(|contents| Ok(contents.uploads.insert(id.clone(), upload)))?;
        done(CreateMultipartUploadOutput { upload_id: Some(id), ..Default::default() })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Out<UploadPartOutput> {
        let input = request.input;
        self.in_bucket(&input.bucket)?;
        let body = all_of(input.body).await?;
        let etag = self.0.put_part(&input.key, &input.upload_id, input.part_number, body)?;
        done(UploadPartOutput { e_tag: Some(strong(&etag)), ..Default::default() })
    }

    async fn upload_part_copy(&self, request: S3Request<UploadPartCopyInput>) -> Out<UploadPartCopyOutput> {
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
        done(CompleteMultipartUploadOutput { bucket, key, e_tag: Some(strong(&etag)), ..Default::default() })
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

//! Records and answers as keys of buckets, large pictures as objects.

use async_nats::jetstream::kv;
use async_nats::jetstream::object_store::GetErrorKind;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::io::AsyncReadExt;

use super::{Nats, Opened, full, is_full};
use crate::engine::Task;
use crate::error::{Reason, ServeError};
use crate::jobs::{Shelf, Store, unavailable};

impl Opened {
    fn shelf(&self, shelf: Shelf) -> &kv::Store {
        match shelf {
            Shelf::Jobs => &self.jobs,
            Shelf::Results => &self.results,
        }
    }
}

impl Store for Nats {
    fn create<'a>(&'a self, shelf: Shelf, name: &'a str, value: Bytes) -> Task<'a, Result<bool, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            match opened.shelf(shelf).create(name, value).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
                Err(error) if is_full(&error) => Err(full()),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn get<'a>(&'a self, shelf: Shelf, name: &'a str) -> Task<'a, Result<Option<Bytes>, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            match opened.shelf(shelf).get(name).await {
                Ok(value) => Ok(value),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn list<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Vec<String>, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            let shelf = opened.shelf(shelf);
            let subjects = format!("{}{prefix}.*", shelf.prefix);
            let start = subjects.len() - 1;
            let found = async {
                let info = shelf.stream.info_builder().subjects(subjects).fetch().await.map_err(|e| e.to_string())?;
                let names = info.map_ok(|(subject, _)| subject.get(start..).unwrap_or_default().to_owned());
                names.try_collect().await.map_err(|e| e.to_string())
            };
            match found.await {
                Ok(names) => Ok(names),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn newest<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Option<u64>, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            let shelf = opened.shelf(shelf);
            match shelf.stream.get_last_raw_message_by_subject(&format!("{}{prefix}.*", shelf.prefix)).await {
                Ok(message) => Ok(u64::try_from(message.time.unix_timestamp()).ok()),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn put_picture<'a>(&'a self, name: &'a str, file: Bytes) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            match opened.pictures.put(name, &mut &*file).await {
                Ok(_) => Ok(()),
                // The error of a chunk holds that of JetStream as text.
                Err(error) if is_full(&error) || error.to_string().contains("maximum bytes exceeded") => Err(full()),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn picture<'a>(&'a self, name: &'a str, most: usize) -> Task<'a, Result<Bytes, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            let mut object = match opened.pictures.get(name).await {
                Ok(object) => object,
                Err(error) if error.kind() == GetErrorKind::NotFound => {
                    let what = "the picture is not in the store any more";
                    return Err(ServeError::new(Reason::NotFound, "picture_lost", what));
                }
                Err(error) => return Err(self.failed(error).await),
            };
            let size = object.info().size;
            if size > most {
                let what = format!("a picture of {size} bytes is larger than this worker's limit of {most}");
                return Err(ServeError::new(Reason::TooLarge, "image_too_large", what));
            }
            let mut file = Vec::with_capacity(size);
            // Its digest is checked while it is read.
            match object.read_to_end(&mut file).await {
                Ok(_) => Ok(file.into()),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn remove_picture<'a>(&'a self, name: &'a str) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            opened.pictures.delete(name).await.map_err(unavailable)
        })
    }
}

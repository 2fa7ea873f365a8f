//! DataFusion over the store's files: the only place that sets it up.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use datafusion::{
    arrow::datatypes::DataType,
    arrow::record_batch::RecordBatch,
    common::{DFSchema, config::ConfigOptions, tree_node::Transformed},
    dataframe::DataFrame,
    datasource::{
        file_format::parquet::ParquetFormat,
        listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl},
    },
    execution::FunctionRegistry as _,
    logical_expr::{Expr, ExprSchemable as _, cast, expr_rewriter::FunctionRewrite},
    prelude::{SessionConfig, SessionContext},
};
use profiler_parquet::Store;

pub struct Engine {
    context: SessionContext,
    pub store: Store,
}

const SAMPLES: &str = "samples.parquet";
const FRAMES: &str = "frames.parquet";

/// Sums of whole numbers in 38 digits, whoever asks: DataFusion's own are of 64 bits, and what is more comes out as another
/// number (`sum(9223372036854775807, 1)` is negative). Values are whatever senders say.
#[derive(Debug)]
struct WideSums;

impl FunctionRewrite for WideSums {
    fn name(&self) -> &str {
        "wide_sums"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _options: &ConfigOptions,
    ) -> datafusion::error::Result<Transformed<Expr>> {
        let widened = |args: &mut [Expr]| match args {
            [arg] if arg.get_type(schema).is_ok_and(|of| of.is_integer()) => {
                // Twenty digits are all that 64 bits can be; a sum has ten more.
                *arg = cast(std::mem::take(arg), DataType::Decimal128(20, 0));
                true
            }
            _ => false,
        };
        let (expr, changed) = match expr {
            Expr::AggregateFunction(mut sum) if sum.func.name() == "sum" => {
                let changed = widened(&mut sum.params.args);
                (Expr::AggregateFunction(sum), changed)
            }
            Expr::WindowFunction(mut sum) if sum.fun.name() == "sum" && !sum.params.distinct => {
                let changed = widened(&mut sum.params.args);
                (Expr::WindowFunction(sum), changed)
            }
            expr => (expr, false),
        };
        Ok(match changed {
            true => Transformed::yes(expr),
            false => Transformed::no(expr),
        })
    }
}

impl Engine {
    /// The tables `samples` and `frames`, each of all files in the store.
    pub async fn open(directory: &Path) -> Result<Self> {
        if !directory.join("v1").is_dir() {
            bail!(
                "there is no store in {}: `ingest` or the profiler's agent makes one",
                directory.display()
            );
        }
        let store = Store::open(directory)?;
        let engine = Self::over(store)?;
        let Some((samples, frames)) = engine.any_set()? else {
            bail!("the store in {} has no profiles yet", directory.display());
        };
        engine.register("samples", SAMPLES, &samples).await?;
        engine.register("frames", FRAMES, &frames).await?;
        Ok(engine)
    }

    /// Without tables.
    pub fn over(store: Store) -> Result<Self> {
        let mut config = SessionConfig::new();
        let options = config.options_mut();
        // Most questions are about one service: what its filter leaves out is not unpacked.
        options.execution.parquet.pushdown_filters = true;
        // Footers are read when files are; before that there is nothing that their sums would decide.
        options.execution.collect_statistics = false;
        options.execution.parquet.schema_force_view_types = false;
        let mut context = SessionContext::new_with_config(config);
        context.register_function_rewrite(Arc::new(WideSums))?;
        Ok(Self { context, store })
    }

    fn any_set(&self) -> Result<Option<(std::path::PathBuf, std::path::PathBuf)>> {
        for hour in self.store.hours()?.into_iter().rev() {
            if let Some(set) = self.store.sets(hour)?.first() {
                let files = self.store.files(hour, set);
                return Ok(Some((files.samples, files.frames)));
            }
        }
        Ok(None)
    }

    /// All files with this ending. All have the columns of `like`: the directory says their version.
    async fn register(&self, name: &str, ending: &str, like: &Path) -> Result<()> {
        let root = self.store.root().canonicalize().context("cannot find the store")?;
        let url = ListingTableUrl::parse(format!("{}/", root.display()))?;
        let options = ListingOptions::new(Arc::new(ParquetFormat::default()))
            .with_file_extension(format!(".{ending}"))
            .with_table_partition_cols(vec![
                ("day".to_owned(), DataType::Utf8),
                ("hour".to_owned(), DataType::Utf8),
            ]);
        let one = ListingTableUrl::parse(like.canonicalize()?.display().to_string())?;
        let schema = options.infer_schema(&self.context.state(), &one).await;
        let schema = schema.with_context(|| format!("cannot read {}", like.display()))?;
        let config = ListingTableConfig::new(url)
            .with_listing_options(options)
            .with_schema(schema);
        self.context
            .register_table(name, Arc::new(ListingTable::try_new(config)?))?;
        Ok(())
    }

    /// A table of these files only.
    pub async fn files(&self, paths: &[std::path::PathBuf]) -> Result<DataFrame> {
        let urls = paths
            .iter()
            .map(|path| ListingTableUrl::parse(path.display().to_string()));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension(".parquet");
        let Some(first) = urls.first() else {
            bail!("no files were asked for");
        };
        let schema = options.infer_schema(&self.context.state(), first).await?;
        let config = ListingTableConfig::new_with_multi_paths(urls)
            .with_listing_options(options)
            .with_schema(schema);
        Ok(self.context.read_table(Arc::new(ListingTable::try_new(config)?))?)
    }

    pub async fn frame(&self, sql: &str) -> Result<DataFrame> {
        let options = datafusion::execution::context::SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false);
        Ok(self.context.sql_with_options(sql, options).await?)
    }

    pub async fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        Ok(self.frame(sql).await?.collect().await?)
    }
}

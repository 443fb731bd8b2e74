package standin

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// worker plays Dify's worker: it indexes documents, cleans up after data sets, runs workflows, and notes whose scheduler had it
// do nothing.
type worker struct {
	*backend
	log   *slog.Logger
	quiet atomic.Bool // it was asked to take nothing more
}

// Idle is the file that a worker makes which was asked to take nothing more, by SIGUSR1, when it has nothing in hand. Only in a container it has
// the place to itself; elsewhere nobody asks.
const Idle = "/tmp/standin-idle"

// longestTask bounds a task, so that one that hangs does not hold the others up for ever.
const longestTask = 5 * time.Minute

// run takes tasks until ctx ends, and returns when those that it has taken are done: Celery's warm shutdown.
func (w *worker) run(ctx context.Context) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	over := make(chan struct{})
	var listens, all sync.WaitGroup
	listens.Go(func() {
		select {
		case <-asked:
			w.quiet.Store(true)
			w.log.Info("asked to take nothing more")
		case <-over:
		}
	})
	for range max(1, w.env.number("CELERY_WORKER_AMOUNT")) {
		all.Go(func() { w.take(ctx, context.WithoutCancel(ctx)) })
	}
	all.Wait()
	close(over)
	listens.Wait()
	if !w.quiet.Load() || ctx.Err() != nil {
		return
	}
	w.log.Info("nothing is in hand any more")
	if err := os.WriteFile(Idle, nil, 0o600); err != nil {
		w.log.Error("cannot say so", "error", err)
	}
	<-ctx.Done()
	_ = os.Remove(Idle) // the container may be started again
}

func (w *worker) take(ctx, life context.Context) {
	said := ""
	for ctx.Err() == nil && !w.quiet.Load() {
		t, err := w.dequeue(life)
		if err != nil {
			if text := w.env.hide(err); text != said && ctx.Err() == nil {
				said = text
				w.log.Warn("no task can be had", "error", text)
			}
			timer := time.NewTimer(reconnect)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		said = ""
		if t != nil {
			w.do(life, *t)
		}
	}
}

func (w *worker) do(ctx context.Context, t task) {
	ctx, cancel := context.WithTimeout(ctx, longestTask)
	defer cancel()
	var err error
	switch t.Name {
	case "index":
		for _, document := range t.Documents {
			if err = w.index(ctx, t, document); err == nil {
				continue
			}
			text := w.env.hide(err)
			w.log.Warn("a document cannot be indexed", "document", document, "error", text)
			err = w.exec(ctx, `UPDATE standin_documents SET status = 'error', error = $2 WHERE id = $1`, document, text)
		}
	case "clean":
		err = w.clean(ctx, t)
	case "run":
		err = w.execute(ctx, t)
	case "poll":
		err = w.exec(ctx, `INSERT INTO standin_polls VALUES ($1, 1, now()) ON CONFLICT (instance) DO UPDATE SET polls = standin_polls.polls + 1, latest = now()`, t.From)
	default:
		err = fmt.Errorf("the stand-in knows no task %q", t.Name)
	}
	if err != nil {
		w.log.Error("a task failed", "task", t.Name, "id", t.ID, "error", w.env.hide(err))
	}
}

// index reads a document from the bucket, splits it and makes it findable.
func (w *worker) index(ctx context.Context, t task, document string) error {
	state := func(s string) error {
		return w.exec(ctx, `UPDATE standin_documents SET status = $2 WHERE id = $1`, document, s)
	}
	var key, technique string
	err := w.row(ctx, []any{&key, &technique}, `SELECT f.key, s.technique FROM standin_documents d JOIN standin_upload_files f ON f.id = d.upload_file_id JOIN standin_datasets s ON s.id = d.dataset_id WHERE d.id = $1`, document)
	if err != nil {
		return err
	}
	if err := state("parsing"); err != nil {
		return err
	}
	contents, err := w.bucket.load(ctx, key)
	if err != nil {
		return err
	}
	if err := state("splitting"); err != nil {
		return err
	}
	texts := split(string(contents))
	ids := make([]string, len(texts))
	err = w.db(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			for i, text := range texts {
				ids[i] = newID()
				words := keywords(text)
				if _, err := tx.Exec(ctx, `INSERT INTO standin_segments VALUES ($1, $2, $3, $4, $5, $6, 'indexing')`, ids[i], t.Dataset, document, i+1, text, words); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO standin_keywords SELECT $1, unnest($2::text[]), $3`, t.Dataset, words, ids[i]); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, `UPDATE standin_documents SET status = 'indexing' WHERE id = $1`, document)
			return err
		})
	})
	if err != nil {
		return err
	}
	if technique == highQuality {
		if err := w.vectors(ctx, t, ids, texts); err != nil {
			return err
		}
	}
	return w.db(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE standin_segments SET status = 'completed' WHERE document_id = $1`, document); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `UPDATE standin_documents SET status = 'completed', completed_at = now() WHERE id = $1`, document)
			return err
		})
	})
}

// vectors puts segments into the data set's table of the vector database, which is made with the extension when it is
// missing, as Dify does it.
func (w *worker) vectors(ctx context.Context, t task, ids, texts []string) error {
	vectors, err := w.plugins.embed(ctx, t.Tenant, texts)
	if err != nil {
		return err
	}
	table := pgx.Identifier{vectorTable(t.Dataset)}.Sanitize()
	err = w.vector.do(ctx, func(c *pgx.Conn) error {
		if err := w.vector.once(ctx, c, `CREATE EXTENSION IF NOT EXISTS vector`); err != nil {
			return fmt.Errorf("the extension vector: %w", err)
		}
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			for _, q := range []string{
				fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (id text PRIMARY KEY, embedding vector(%d) NOT NULL)`, table, dimensions),
				fmt.Sprintf(`CREATE INDEX IF NOT EXISTS %s ON %s USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64)`,
					pgx.Identifier{"i" + strings.TrimPrefix(vectorTable(t.Dataset), "standin_embedding")}.Sanitize(), table),
			} {
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
			for i, id := range ids {
				if _, err := tx.Exec(ctx, `INSERT INTO `+table+` VALUES ($1, $2::text::vector) ON CONFLICT DO NOTHING`, id, vectors[i]); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("the vector database: %w", err)
	}
	return nil
}

// clean removes all that a deleted data set left: vectors, segments, files and their objects.
func (w *worker) clean(ctx context.Context, t task) error {
	err := w.vector.do(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{vectorTable(t.Dataset)}.Sanitize())
		return err
	})
	if err != nil {
		return fmt.Errorf("the vector database: %w", err)
	}
	type file struct{ ID, Key string }
	var files []file
	err = w.db(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT f.id, f.key FROM standin_upload_files f JOIN standin_documents d ON d.upload_file_id = f.id WHERE d.dataset_id = $1 ORDER BY f.id`, t.Dataset)
		if err != nil {
			return err
		}
		files, err = pgx.CollectRows(rows, pgx.RowToStructByPos[file])
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := w.bucket.remove(ctx, f.Key); err != nil {
			return err
		}
		if err := w.exec(ctx, `DELETE FROM standin_upload_files WHERE id = $1`, f.ID); err != nil {
			return err
		}
	}
	for _, table := range []string{"standin_keywords", "standin_segments", "standin_documents"} {
		if err := w.exec(ctx, `DELETE FROM `+table+` WHERE dataset_id = $1`, t.Dataset); err != nil {
			return err
		}
	}
	return nil
}

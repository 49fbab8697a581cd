package etcd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// slogCore hands etcd's own errors on to slog. Most of them are about what etcd tries again by itself: they are
// warnings here, unlike those that end it. Those of a member that is being closed only say that it is.
type slogCore struct {
	logger  *slog.Logger // nil: nothing is logged
	closing *atomic.Bool
	fields  []zapcore.Field
}

func (c slogCore) Enabled(l zapcore.Level) bool {
	return c.logger != nil && l >= zapcore.ErrorLevel && !c.closing.Load()
}

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

func (c slogCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	all := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(all)
	}
	for _, f := range fields {
		f.AddTo(all)
	}
	level := slog.LevelWarn
	if e.Level > zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.logger.LogAttrs(context.Background(), level, "etcd reports an error",
		slog.String("message", e.Message), slog.Any("fields", all.Fields))
	return nil
}

func (c slogCore) Sync() error { return nil }

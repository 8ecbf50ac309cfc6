BEGIN TRANSACTION;
CREATE TABLE audit (
	id INTEGER NOT NULL,
	time FLOAT NOT NULL,
	user VARCHAR(80) NOT NULL,
	action VARCHAR(80) NOT NULL,
	target VARCHAR(200) NOT NULL,
	detail TEXT NOT NULL,
	status INTEGER NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "audit" VALUES(1,1780000000.0,'anna','submit_sweep','synthetic-0000000000','',202);
CREATE TABLE deliveries (
	id VARCHAR(32) NOT NULL,
	sweep VARCHAR(80) NOT NULL,
	url TEXT NOT NULL,
	body TEXT NOT NULL,
	due FLOAT NOT NULL,
	tries INTEGER NOT NULL,
	ended FLOAT,
	error TEXT NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE landed (
	sweep VARCHAR(80) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	number INTEGER NOT NULL,
	mark VARCHAR(80) NOT NULL,
	PRIMARY KEY (sweep, digest),
	FOREIGN KEY(sweep) REFERENCES sweeps (id) ON DELETE CASCADE
);
CREATE TABLE service (
	"key" VARCHAR(40) NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY ("key")
);
INSERT INTO "service" VALUES('version','2');
CREATE TABLE sweeps (
	id VARCHAR(80) NOT NULL,
	name VARCHAR(200) NOT NULL,
	owner VARCHAR(80) NOT NULL,
	shared BOOLEAN NOT NULL,
	space VARCHAR(200) NOT NULL,
	spec JSON NOT NULL,
	budget INTEGER NOT NULL,
	trials INTEGER NOT NULL,
	priority INTEGER NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT NOT NULL,
	task JSON NOT NULL,
	created FLOAT NOT NULL,
	queued FLOAT NOT NULL,
	started FLOAT,
	ended FLOAT,
	wall_seconds FLOAT NOT NULL,
	gpu_hours FLOAT NOT NULL,
	summary JSON,
	deaths INTEGER NOT NULL,
	webhook TEXT,
	"key" VARCHAR(255),
	fingerprint VARCHAR(64),
	due INTEGER DEFAULT '0' NOT NULL,
	due_gpu_seconds FLOAT DEFAULT '0' NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (owner, "key")
);
INSERT INTO "sweeps" VALUES('synthetic-0000000000','tries 0','anna',0,'synthetic','{"space": "synthetic", "trials": 4, "runner": "inline", "sampler": "random"}',4,4,0,'done','all trials are run','{"kind": "run", "attempt": 1, "seen": 0}',1780000000.0,1780000000.0,1780000010.0,1780000020.0,10.0,0.0,'null',0,NULL,NULL,NULL,0,0.0);
INSERT INTO "sweeps" VALUES('synthetic-0000000001','tries 1','anna',0,'synthetic','{"space": "synthetic", "trials": 4, "runner": "inline", "sampler": "random"}',4,4,0,'running','trials are started','{"kind": "run", "attempt": 1, "seen": 0}',1780000001.0,1780000001.0,1780000010.0,NULL,0.0,0.0,'null',0,NULL,NULL,NULL,0,0.0);
INSERT INTO "sweeps" VALUES('synthetic-0000000002','tries 2','anna',0,'synthetic','{"space": "synthetic", "trials": 4, "runner": "inline", "sampler": "random"}',4,4,0,'queued','','{"kind": "run"}',1780000002.0,1780000002.0,NULL,NULL,0.0,0.0,'null',0,NULL,NULL,NULL,0,0.0);
CREATE TABLE tokens (
	id VARCHAR(16) NOT NULL,
	user VARCHAR(80) NOT NULL,
	role VARCHAR(20) NOT NULL,
	hash VARCHAR(64) NOT NULL,
	created FLOAT NOT NULL,
	expires FLOAT,
	revoked FLOAT,
	PRIMARY KEY (id),
	FOREIGN KEY(user) REFERENCES users (name) ON DELETE CASCADE
);
INSERT INTO "tokens" VALUES('0123456789ab','anna','submitter','9cdc7469f022f9e7965d22eff1ab2c260adcd0c23b98d199c519762f3a0be959',1780000000.0,NULL,NULL);
CREATE TABLE transitions (
	id INTEGER NOT NULL,
	sweep VARCHAR(80) NOT NULL,
	state VARCHAR(20) NOT NULL,
	time FLOAT NOT NULL,
	cause TEXT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(sweep) REFERENCES sweeps (id) ON DELETE CASCADE
);
INSERT INTO "transitions" VALUES(1,'synthetic-0000000000','queued',1780000000.0,'sent');
INSERT INTO "transitions" VALUES(2,'synthetic-0000000001','queued',1780000001.0,'sent');
INSERT INTO "transitions" VALUES(3,'synthetic-0000000002','queued',1780000002.0,'sent');
CREATE TABLE usage (
	sweep VARCHAR(80) NOT NULL,
	day INTEGER NOT NULL,
	user VARCHAR(80) NOT NULL,
	trials INTEGER NOT NULL,
	gpu_seconds FLOAT NOT NULL,
	PRIMARY KEY (sweep, day)
);
CREATE TABLE users (
	name VARCHAR(80) NOT NULL,
	quota JSON NOT NULL,
	created FLOAT NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO "users" VALUES('anna','{"waiting": 20}',1780000000.0);
CREATE INDEX ix_sweeps_space ON sweeps (space);
CREATE INDEX ix_sweeps_state ON sweeps (state);
CREATE INDEX ix_sweeps_owner ON sweeps (owner);
CREATE INDEX usage_of_user ON usage (user, day);
CREATE INDEX ix_audit_time ON audit (time);
CREATE INDEX ix_deliveries_due ON deliveries (due);
CREATE INDEX ix_transitions_sweep ON transitions (sweep);
CREATE INDEX landed_order ON landed (sweep, number);
CREATE INDEX ix_tokens_user ON tokens (user);
COMMIT;

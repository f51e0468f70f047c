"""Disks that fail: at the k-th call that writes, for every k, and full, limited or read-only ones. Each run ends
with exit code 4 and a message that names the place, leaves nothing under a final name but what is whole, and the
same command afterwards gives the same bytes as if nothing had been."""
import errno
import os
import pathlib
import resource
import subprocess
import unittest

import harness

OK, IO_ERROR = 0, 4
MODEL = harness.ROOT / 'tests' / 'data' / 'tiny' / 'llama3'
OPTIONS = ('--bits', 4, '--group-size', 32, '--preset', 'fast', '--max-shard-size', 20000)
STRIDE = int(os.environ.get('MQ_FAULT_STRIDE', '8'))     # 1: every call, in all tests


def wider(factor):
    """Larger steps where another test takes the smaller ones, unless all are wanted."""
    return factor * STRIDE if STRIDE > 1 else 1


class DiskFaults(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        samples = [[(7 * i + 13 * j) % 90 for j in range(32)] for i in range(4)]
        cls.calib = harness.write_calib(cls.root / 'calib.h5', samples, 96)
        cls.shim = cls.root / 'fail_io.so'
        subprocess.run(['cc', '-shared', '-fPIC', '-o', cls.shim, pathlib.Path(__file__).with_name('fail_io.c'),
                        '-ldl'], check=True)
        cls.good = cls.root / 'good'
        done = cls.quantise(cls.good)
        assert done.returncode == OK, done.stderr
        cls.hash = harness.files_hash(cls.good)
        assert len(list(cls.good.glob('*.safetensors'))) > 2

    @classmethod
    def quantise(cls, out, ranks=1, env=None):
        return harness.run(ranks, 'quantize', MODEL, '--calib', cls.calib, '--output', out, *OPTIONS, env=env)

    def check_refused(self, done, out, *said):
        self.assertEqual(done.returncode, IO_ERROR, done.stderr)
        for text in (str(out), *said):
            self.assertIn(text, done.stderr)
        for path in out.glob('*.safetensors*'):
            if not path.name.endswith('.part'):
                self.assertEqual(path.read_bytes(), (self.good / path.name).read_bytes(), done.stderr)

    def check_every_call(self, error, ranks, stride, **where):
        """Fails the calls 1, 1 + stride, ... of a run until one has no such call any more."""
        out, call, failed = self.root / f'{error}-{ranks}', 1, 0
        env = {'FAIL_IN': str(out), 'FAIL_WITH': str(error), **where}
        preload = {'LD_PRELOAD': str(self.shim)}
        while True:
            done = self.quantise(out, ranks, {**env, **preload, 'FAIL_AT': str(call)})
            if done.returncode == OK:
                break
            self.check_refused(done, out, os.strerror(error))
            failed += 1
            call += stride
        self.assertGreater(failed, 25 // stride)
        # The last one went through, in the folder that the others had left.
        self.assertEqual(harness.files_hash(out), self.hash)

    def test_io_error_at_every_call(self):
        self.check_every_call(errno.EIO, 1, STRIDE)

    def test_full_disk_at_every_call(self):
        self.check_every_call(errno.ENOSPC, 1, wider(2))

    def test_one_rank_of_two(self):
        self.check_every_call(errno.EIO, 2, wider(3), FAIL_RANK='1')

    def test_storage_without_rename(self):
        """Of anything, of shards, of the index; as where a temporary file lies on another file system."""
        for name, error in (('', errno.EXDEV), ('/model-', errno.EXDEV),
                            ('/model.safetensors.index', errno.EACCES)):
            with self.subTest(name or 'all', error=error):
                out = self.root / f'rename-{name.strip("/")}-{error}'
                done = self.quantise(out, 2, {'LD_PRELOAD': str(self.shim), 'FAIL_IN': f'{out}{name}',
                                              'FAIL_RENAME': str(error)})
                self.check_refused(done, out, os.strerror(error), 'cannot rename to', f'{out}{name}')
                self.assertEqual('does not rename files' in done.stderr, error == errno.EXDEV)
                self.assertEqual(sorted(p.name for p in out.glob('*.safetensors*')), [])
                self.assertFalse((out / 'mq_report.json').exists())
                done = self.quantise(out)
                self.assertEqual(done.returncode, OK, done.stderr)
                self.assertEqual(harness.files_hash(out), self.hash)

    def test_limit_on_file_sizes(self):
        """ulimit -f: 8 MiB, which Open MPI itself can do with, for a shard of 14."""
        out, limit = self.root / 'limited', 8 << 20
        calib = harness.write_calib(self.root / 'demo.h5', harness.demo_samples(1, 32), 4096)
        command = [harness.PROGRAM, 'quantize', harness.DEMO, '--calib', calib, '--output', out, '--layers', '0:1',
                   '--preset', 'fast', '--format', 'dense']
        done = subprocess.run([str(c) for c in command], text=True, capture_output=True, check=False, timeout=60,
                              env={**harness.OPEN_MPI, **os.environ},
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.check_refused(done, out, os.strerror(errno.EFBIG))

    def test_small_disks(self):
        """A tmpfs of every size up to what is enough."""
        mount = self.root / 'disk'
        mount.mkdir()
        for pages in range(2, 200, wider(2)):
            made = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={pages * 4}k', 'none', mount], check=False,
                                  capture_output=True)
            if made.returncode != 0:
                self.skipTest('cannot mount')
            try:
                done = self.quantise(mount / 'out')
                if done.returncode == OK:
                    self.assertEqual(harness.files_hash(mount / 'out'), self.hash)
                    self.assertGreater(pages, 20)
                    return
                self.check_refused(done, mount / 'out')
            finally:
                subprocess.run(['umount', mount], check=True)
        self.fail('no disk was large enough')

    def test_read_only_disk(self):
        mount = self.root / 'read-only'
        mount.mkdir()
        made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'none', mount], check=False, capture_output=True)
        if made.returncode != 0:
            self.skipTest('cannot mount')
        try:
            done = self.quantise(mount / 'out')
            self.assertEqual(done.returncode, IO_ERROR, done.stderr)
            self.assertIn(os.strerror(errno.EROFS), done.stderr)
        finally:
            subprocess.run(['umount', mount], check=True)


if __name__ == '__main__':
    unittest.main()

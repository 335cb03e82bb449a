// Command gocar does with go-car what the tests compare hamt_bulk with:
//
//	gocar index FILE                     the index of FILE, generated anew, to stdout
//	gocar check FILE                     hash every block, find each through the file's own index; a line of counts
//	gocar create FILE COUNT [unfinished] a CARv2 of COUNT blocks, closed without its header when unfinished
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/blockstore"
	"github.com/ipld/go-car/v2/index"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
	_ "github.com/multiformats/go-multihash/register/blake3"
)

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: gocar index|check|create FILE …"))
	}
	switch os.Args[1] {
	case "index":
		fail(generate(os.Args[2]))
	case "check":
		fail(check(os.Args[2]))
	case "create":
		fail(create(os.Args[2], os.Args[3], len(os.Args) > 4))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate(path string) error {
	found, err := car.GenerateIndexFromFile(path, car.UseIndexCodec(multicodec.CarMultihashIndexSorted))
	if err != nil {
		return err
	}
	_, err = index.WriteTo(found, os.Stdout)
	return err
}

func check(path string) error {
	reader, err := car.OpenReader(path)
	if err != nil {
		return err
	}
	defer reader.Close()
	stats, err := reader.Inspect(true)
	if err != nil {
		return err
	}
	stream, err := reader.IndexReader()
	if err != nil {
		return err
	}
	found, err := index.ReadFrom(stream)
	if err != nil {
		return err
	}
	data, err := reader.DataReader()
	if err != nil {
		return err
	}
	sections, err := car.NewBlockReader(data)
	if err != nil {
		return err
	}
	for {
		section, err := sections.SkipNext()
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		listed := false
		err = found.GetAll(section.Cid, func(offset uint64) bool {
			listed = offset == section.Offset
			return !listed
		})
		if err != nil || !listed {
			return fmt.Errorf("%s at %d is not in the index: %v", section.Cid, section.Offset, err)
		}
	}
	fmt.Printf("version=%d roots=%d blocks=%d index=%s\n", stats.Version, len(stats.Roots), stats.BlockCount, stats.IndexCodec)
	return nil
}

func create(path, count string, unfinished bool) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	root := block(0, multihash.SHA2_256)
	store, err := blockstore.OpenReadWrite(path, []cid.Cid{root.Cid()})
	if err != nil {
		return err
	}
	for i := range n {
		if err := store.Put(context.Background(), block(i, [2]uint64{multihash.SHA2_256, multihash.BLAKE3}[i%2])); err != nil {
			return err
		}
	}
	if unfinished {
		store.Discard()
		return nil
	}
	return store.Finalize()
}

// block number i holds the byte i, i+1 times.
func block(i int, hash uint64) blocks.Block {
	data := bytes.Repeat([]byte{byte(i)}, i+1)
	digest, err := multihash.Sum(data, hash, 32)
	fail(err)
	named, err := blocks.NewBlockWithCid(data, cid.NewCidV1(cid.Raw, digest))
	fail(err)
	return named
}

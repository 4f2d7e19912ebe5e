"""Layers and blocks whose weights subnets share."""

from search_spaces.layers.elastic import ElasticBatchNorm1d, ElasticBatchNorm2d, ElasticLayerNorm, ElasticLinear
from search_spaces.layers.elastic_block import elastic_block
from search_spaces.layers.elastic_conv import (
    ElasticConv,
    ElasticConv1d,
    ElasticConv2d,
    ElasticConvTranspose1d,
    ElasticConvTranspose2d,
)
from search_spaces.layers.elastic_head import check_head_operators, head_block
from search_spaces.layers.elastic_modules import ConvNorm, Resize, classifier
from search_spaces.layers.grouping import DENSE, Grouping, check_groupings
from search_spaces.layers.inverted_residual import ElasticInvertedResidual, InvertedForm
from search_spaces.layers.residual import ElasticResidual, ResidualForm
from search_spaces.layers.resolution_weights import ByResolution
from search_spaces.layers.sorting import sort_supernet_

__all__ = [
    "DENSE", "ByResolution", "ConvNorm", "ElasticBatchNorm1d", "ElasticBatchNorm2d", "ElasticConv", "ElasticConv1d",
    "ElasticConv2d", "ElasticConvTranspose1d", "ElasticConvTranspose2d", "ElasticInvertedResidual", "ElasticLayerNorm",
    "ElasticLinear", "ElasticResidual", "Grouping", "InvertedForm", "ResidualForm", "Resize", "check_groupings",
    "check_head_operators", "classifier", "elastic_block", "head_block", "sort_supernet_",
]  # fmt: skip
